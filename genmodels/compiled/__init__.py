"""Numba loops over the replicas of quadratic models: one memory layout a file."""
