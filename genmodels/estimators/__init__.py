"""log Z, likelihood bounds, divergences, sample quality and chain diagnostics, each as an Estimate."""
