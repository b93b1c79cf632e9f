"""The page and the figure of learning rules compared."""
