"""The project's own measurements, run with ``make bench-*`` from a checkout; not installed."""
