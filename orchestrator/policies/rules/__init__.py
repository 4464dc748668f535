"""Rules without learning: which server, which width, and, in ``joint``, both with the batch."""
