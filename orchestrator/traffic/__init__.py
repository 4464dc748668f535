"""What came of real traffic, from a router's decision log, and what other policies would have made of it.

The log is a sample of what was sent. Requests that were refused for load were never sent, so they are not in it.
"""
