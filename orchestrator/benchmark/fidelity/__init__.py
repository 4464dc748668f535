"""How true the simulator is: the same arrivals and policies on real Tritons and in virtual time.

The real side is the demo's fleet of embedded tritonservers, one of them emulated three times slower than the other, and
a Router in this process. ``slimsched profile`` measures it just before, and the simulated side is that profile and
nothing else: no number of the real runs is fitted. Both sides get the same arrival times, router settings and policies;
the real rounds are in an order drawn by lot, so that drift hits all policies alike, and the simulated ones are repeated
over several draws of service noise.

What the simulator leaves out is switched off on the real side, or it would be compared with something else: probes with
known answers, second attempts at what is overdue, ejection for latency, shedding of what is late.
"""
