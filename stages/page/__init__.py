"""The report's page and figures."""
