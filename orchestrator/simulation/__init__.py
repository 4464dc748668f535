"""A fleet in virtual time: the router's own decisions on servers that are made of numbers.

Arrivals, the router's queue, batches, servers and what goes wrong with them are events; between two of them nothing
happens, so time is exact. Decisions are those of ``orchestrator.policies``, on the same tables and by the same
functions as in a live router. So are the rules of its queue, and expected times are learned by
``orchestrator.profile.fit`` as there. With Numba the whole loop is compiled; see orchestrator.policies.tables.compiled
for the alternatives and their cost.

The loop draws nothing. All that is random (arrivals, service noise, what policies draw, failures) is drawn beforehand,
each from a stream of its own of one seed, and belongs to a request or to a moment: so two policies meet the very same
world, which makes their difference a paired one (common random numbers).
"""
