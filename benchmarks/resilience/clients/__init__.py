"""What sends requests, each in a process of its own, and the files between a scenario and its client."""
