"""Rules that choose server, width and batch together, mostly those of the literature, one a module."""
