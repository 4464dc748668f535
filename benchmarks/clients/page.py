"""A run as a page of Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from benchmarks.clients.results import Results, draw_claims

GIB = 2**30
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


def render_json(results: Results) -> str:
    """Return the run as JSON: claims first."""
    claims = [
        {"name": claim.name, "value": claim.value, "bar": claim.bar, "met": claim.is_met}
        for claim in draw_claims(results)
    ]
    return json.dumps({"claims": claims, **asdict(results)}, ensure_ascii=False, indent=1) + "\n"


def render_page(results: Results) -> str:
    """Return the page."""
    machine, claims = results.machine, draw_claims(results)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(results.versions.items()))
    rows = [
        (claim.name, "none" if claim.value is None else f"{claim.value:g}", "met" if claim.is_met else "**not met**")
        for claim in claims
    ]
    blocks = [
        "# Foreign clients at the gateway",
        _PROSE,
        f"Taken at {results.taken_at} in {results.took_s:.0f} s on {machine.cpu}, {machine.cpus} CPUs, "
        f"{machine.memory_bytes / GIB:.0f} GiB, {machine.kernel}. {versions}.",
        f"## Claims: {sum(claim.is_met for claim in claims)} of {len(claims)} met",
        _table(("", "found", "none is allowed"), rows),
        "## perf_analyzer",
        _table(
            ("run", "gateway", "requests answered", ""),
            [(run.name, run.place, str(run.requests), run.problem or "ok") for run in results.runs],
        ),
        "## kserve",
        results.kserve_problem or _KSERVE,
        _table(
            ("client", "call", "gateway", "it gives", "Triton gives", ""),
            [
                (call.client, call.name, call.place, call.ours, call.theirs, "same" if call.is_same else "**differs**")
                for call in results.kserve
            ],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
