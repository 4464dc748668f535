"""A simulated fleet in tables, and the compiled event loop that moves it."""
