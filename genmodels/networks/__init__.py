"""The neural networks that models are made of."""
