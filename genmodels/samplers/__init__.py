"""One algorithm that moves chains through temperature a file."""

SAMPLERS = {
    "replica_exchange": "genmodels.samplers.replica_exchange:ReplicaExchange",
    "population_annealing": "genmodels.samplers.population_annealing:PopulationAnnealing",
}
