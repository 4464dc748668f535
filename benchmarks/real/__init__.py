"""Policies on real Tritons under load that no fleet can answer, with other work on the machine and without.

What counts is top-1 in time: right answers within the deadline, of all requests that were due. Every set-up gets every
load in turn (orchestrator.loadgen.comparison), from senders that count from when requests were due.
"""
