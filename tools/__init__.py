"""Generators of files that are committed: synthetic profiles, and those of ``deploy``. Not installed."""
