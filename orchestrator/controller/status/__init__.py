"""What a controller tells of itself: its status document, its metrics, and where both are read."""
