"""From data to a Triton model repository: slimmable networks, their training and their export."""
