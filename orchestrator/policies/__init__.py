"""Pure routing decisions: what could be done (candidates) and which of it is done (policies).

Nothing here knows a clock, randomness of its own, a network or a logger; time and random numbers come in as values. So
the router and a simulator call the very same functions, and a test needs no fakes.
"""
