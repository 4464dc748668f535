"""Policies held against each other on scenarios that nobody tuned on, and what follows from it.

It serves any scenarios and any policies; what a suite promises and compares is the suite's own (``suite``). From run to
report it goes one way: ``cases`` says what is to be run, ``campaign`` runs it (``runs``, ``figures``), ``scores`` and
``statistics`` condense it, the suite's claims hold it against their bars, and ``document`` and ``page`` show it. See
``docs/evaluation.md``.
"""
