"""Commands that measure, simulate, learn and compare."""
