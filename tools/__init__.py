"""Generators of committed files: synthetic profiles, those of ``deploy``, the settings' reference. Not installed."""
