"""One algorithm that moves chains through temperature a file."""

SAMPLERS = {
    "simulated_annealing": "genmodels.samplers.simulated_annealing:SimulatedAnnealing",
    "simulated_tempering": "genmodels.samplers.simulated_tempering:SimulatedTempering",
    "replica_exchange": "genmodels.samplers.replica_exchange:ReplicaExchange",
    "jarzynski": "genmodels.samplers.jarzynski:Jarzynski",
    "population_annealing": "genmodels.samplers.population_annealing:PopulationAnnealing",
}
