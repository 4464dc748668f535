"""Triton's model repository: configs, files that are replaced whole, and checks of what is there."""
