"""What belongs to pipelines as wholes: parameters, tracking, the shape of the DAG."""
