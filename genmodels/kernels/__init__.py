"""One Markov transition at a fixed temperature a file."""

KERNELS = {
    "block_gibbs": "genmodels.kernels.block_gibbs:BlockGibbs",
    "coupled_langevin": "genmodels.kernels.coupled_langevin:CoupledLangevin",
    "gibbs_with_gradients": "genmodels.kernels.gibbs_with_gradients:GibbsWithGradients",
    "heat_bath": "genmodels.kernels.heat_bath:HeatBath",
    "langevin": "genmodels.kernels.langevin:Langevin",
    "lifted": "genmodels.kernels.lifted:Lifted",
    "mala": "genmodels.kernels.mala:MALA",
    "metropolis": "genmodels.kernels.metropolis:Metropolis",
}
