"""How the comparison of samplers is shown: its figures, and the template of its page."""
