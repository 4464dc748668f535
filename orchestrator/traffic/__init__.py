"""What came of real traffic, from a router's decision log, and what other policies would have made of it.

The log is a sample of what was decided and of what was refused for load. What the gateway refuses before, such as what
is above a tenant's quota, never came to a router and is not in it.
"""
