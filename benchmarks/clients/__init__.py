"""Foreign clients at a gateway before real Tritons: ``make bench-clients``.

It asks whether they work, not how fast: every protocol, mode, batch and kind of load of ``perf_analyzer``, plain and
with TLS, a token and two workers, and every call of the ``kserve`` package's clients. kserve asks for numpy 2, which
the embedded Triton's wheel refuses, so it lives in a virtual environment of its own, made by the run.

`testbed` starts what is asked, `analyses` is the matrix and how one cell is run (the tests run a part of it),
`kserve_calls` is run by the other environment's Python, `measure` does all of it and `page` writes down what was found.
"""
