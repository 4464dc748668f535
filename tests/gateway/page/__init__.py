"""The status page: its numbers, its events, and the page in a real browser."""
