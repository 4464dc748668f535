"""How true the simulator is: the same arrivals and policies on real Tritons and in virtual time.

The real side is the demo's fleet of embedded tritonservers, one of them emulated three times slower than the other, and
a Router in this process. ``slimsched profile --under-load`` measures it just before, and the simulated side is that
profile and nothing else: no number of the real runs is fitted. Both sides get the same arrivals, router settings and
policies; the real rounds are in a random order, so that drift hits all policies alike, and the simulated ones
are repeated over several draws of service noise.

What the simulator leaves out is switched off on the real side, or it would be compared with something else: Triton's
own batcher (it joined up to a quarter of the batches that the router had sent apart, those that came while an instance
turned from one to the next), probes with known answers, second attempts at what is overdue, ejection for latency,
shedding of what is late.
"""
