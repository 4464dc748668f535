"""Generators of files that are committed: synthetic profiles, ``deploy/compose.yaml``, the settings' reference."""
