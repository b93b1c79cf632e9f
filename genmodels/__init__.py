"""Train, sample and compare the generative models of statistical physics and machine learning."""

__version__ = "0.1.0"
