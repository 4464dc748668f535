"""Pure: what a host's Triton should serve, with how many instances and in which batches."""
