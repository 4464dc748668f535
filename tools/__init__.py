"""Generators of files that are committed: synthetic profiles and ``deploy/compose.yaml``. Not installed."""
