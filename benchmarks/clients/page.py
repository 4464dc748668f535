"""The page of a run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.clients.results import Results, draw_claims
from benchmarks.harness.run import page_head
from orchestrator.reporting.blocks import Block, Heading, Table, Text

_PROSE = """\
This page is written by `make bench-clients`; the raw findings lie beside it in [clients.json](clients.json). It asks \
whether clients that nobody here wrote work, not how fast. Two real tritonservers (embedded) serve the family of \
`model_repository`; before them are a plain gateway, and one with TLS, a token and two workers. What tritonclient is \
answered is tested by `make test`; see [gateway.md](../gateway.md#clients)."""
_KSERVE = """\
Each call is made at the gateway and straight to a Triton, and the whole answers are compared, tensors rounded to \
three digits. The family is asked with `slim_width` 100, and at Triton the model of that width. Where both fail, the \
client fails: its REST client looks for JSON in the answers to health, which Triton leaves empty, and \
v2 has no `explain`."""


def make_page(results: Results) -> Iterator[Block]:
    """Yield the page."""
    yield from page_head("Foreign clients at the gateway", _PROSE, results, draw_claims(results))
    yield Heading(2, "perf_analyzer")
    yield Table(
        ("run", "gateway", "requests answered", ""),
        [(run.name, run.place, str(run.requests), run.problem or "ok") for run in results.runs],
    )
    yield Heading(2, "kserve")
    yield Text(results.kserve_problem or _KSERVE)
    yield Table(
        ("client", "call", "gateway", "it gives", "Triton gives", ""),
        [
            (call.client, call.name, call.place, call.ours, call.theirs, "same" if call.is_same else "**differs**")
            for call in results.kserve
        ],
    )
