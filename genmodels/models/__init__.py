"""One model a file: what q_θ is."""

MODELS = {
    "independent": "genmodels.models.independent:Independent",
    "independent_levels": "genmodels.models.independent_levels:IndependentLevels",
    "independent_gaussian": "genmodels.models.independent_gaussian:IndependentGaussian",
    "gaussian": "genmodels.models.gaussian:Gaussian",
    "gaussian_mixture": "genmodels.models.gaussian_mixture:GaussianMixture",
    "bernoulli_mixture": "genmodels.models.bernoulli_mixture:BernoulliMixture",
    "ising": "genmodels.models.ising:Ising",
    "boltzmann_machine": "genmodels.models.boltzmann_machine:BoltzmannMachine",
    "rbm": "genmodels.models.rbm:RBM",
    "dbm": "genmodels.models.dbm:DBM",
    "neural_energy": "genmodels.models.neural_energy:NeuralEnergy",
    "autoencoder": "genmodels.models.autoencoder:Autoencoder",
    "vae": "genmodels.models.vae:VAE",
    "hvae": "genmodels.models.hvae:HVAE",
    "diffusion": "genmodels.models.diffusion:Diffusion",
    "latent_diffusion": "genmodels.models.latent_diffusion:LatentDiffusion",
}
