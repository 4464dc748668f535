"""Gateways that share a fleet: each Triton is driven by one of them at a time, and what comes elsewhere goes one hop.

A gateway asks its peers several times a second how they are (``report``), knows by that which of them live, and follows
the plan of the first of them (``orchestrator.ownership``). ``sharing`` decides from these what this gateway drives, and
to whom a request goes that it can't run itself; ``leases`` claims servers where somebody keeps a record of their
drivers. ``links`` and ``keepers`` are the calls to others. Nothing is stored, and nothing else is shared: views of each
other's queues would be late, and that is worse than none.
"""
