"""What no policy can do better than, and when a single server should start a batch."""
