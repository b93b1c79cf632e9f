"""What a params.yaml may say, one kind of pipeline a file."""
