"""A network that runs at several widths: its layers, its sizes, and the cut of a single width."""
