"""What the controller daemon does on a real Triton: ``make bench-controller``.

Five `scenarios` return raw numbers; `results` holds them,
`claims` holds them against their bars, `page` and `picture` show them. The daemon is run for what it is, a process
``slimsched controller`` that is watched through its HTTP endpoint; whatever is claimed of Triton is read from Triton
itself, never from the daemon. Load is `perf_analyzer` where latency is claimed, and loops of our own where every
single answer must be accounted for.

Numbers of one machine are compared only with numbers of the same run.
"""
