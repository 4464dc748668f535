"""Commands that serve, and that look at what serves."""
