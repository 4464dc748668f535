"""Policies held against each other on scenarios that nobody tuned on, and what follows from it.

A suite is a folder of test scenarios with the policies that meet on them; see ``docs/evaluation.md``. From run to
report it goes one way: suites say what is to be run, the campaign runs it (figures), standings and statistics condense
it, claims hold it against the bars, and pages render it.
"""
