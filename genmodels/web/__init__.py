"""The page on which a prompt becomes a picture, and models are compared; over HTTP, too."""
