"""What all benchmarks share, so that each holds only its scenarios, its results and its claims.

``run`` is what every run says of itself and the way to JSON and back, ``command`` runs scenarios with progress, goes
on from a committed run, writes page, JSON and picture and shows which claims are met; ``machine`` describes where that
was. ``programs`` runs what stands before Tritons, ``perf_analyzer`` is the foreign load generator, ``processes`` reads
what processes use and hold.
"""
