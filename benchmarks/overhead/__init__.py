"""What router and gateway cost against what one would use instead: ``make bench-overhead``.

The router's ``infer`` is held against raw ``tritonclient.grpc.aio``, the gateway against Envoy; all of them ask one and
the same Triton at one fixed width, on the same cores, nothing pinned. Every cell is measured in several rounds, whose
order alternates, and medians are compared: numbers of one run, never of two.

`loops` and `raw_client` are the closed loops of the router's rows, `perf_analyzer` is the client of the gateway's;
the harness starts what stands between, `cells` says what is measured and holds it, `rows` holds it against the bars.
"""
