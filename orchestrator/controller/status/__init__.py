"""What a controller shows of itself: its status document, its metrics, and where both are read."""
