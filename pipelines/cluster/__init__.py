"""From a laptop to a cluster: submitting a job to Ray, and the files that start cluster and services."""
