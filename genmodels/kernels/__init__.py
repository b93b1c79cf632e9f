"""One Markov transition at a fixed temperature a file."""

KERNELS = {
    "block_gibbs": "genmodels.kernels.block_gibbs:BlockGibbs",
}
