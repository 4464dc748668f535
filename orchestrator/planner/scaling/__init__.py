"""Changes of what a Triton serves: instances added and taken, models unloaded, batching and files followed."""
