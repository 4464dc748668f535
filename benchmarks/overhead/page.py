"""A run as a page of Markdown, as JSON, and as the report of its bars."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from benchmarks.controller.claims import Claim
from benchmarks.overhead.cells import Load, Results, Sample, Way, encode_results, middle
from benchmarks.overhead.rows import LOADS, draw_rows

GIB = 2**30
_PROSE = """\
This page is written by `make bench-overhead`; the raw numbers lie beside it in \
[overhead.json](overhead.json), and [where the time goes](overhead-profile.md) is a page of its own. One real \
tritonserver (the embedded one, nothing slowed down) serves the family of `model_repository`; client, proxy \
and server share the machine's {cpus} cores, nothing is pinned. Requests carry one item of 3 kB. \
`Router.infer` and `tritonclient.grpc.aio` are called by closed loops in Python, on asyncio's own event loop; \
Envoy (one worker, least request) and `slimsched gateway` (one process) by `perf_analyzer` over gRPC, in three \
windows. Through the gateway the family is asked, routed and grouped, with the width pinned by `slim_width` \
and every other setting at its default; `direct` has nothing between, for orientation. Each number is the median \
of {rounds} rounds, with the least and the most in brackets."""


def render_json(results: Results) -> str:
    """Return the run as JSON: rows first, then what it was made on and with, then every sample."""
    raw = encode_results(results)
    head = {key: raw[key] for key in ("taken_at", "machine", "versions")}
    return json.dumps({"rows": _rows(results), **head, "raw": raw}, ensure_ascii=False, separators=(",", ":")) + "\n"


def render_report(results: Results) -> str:
    """Return the bars as JSON."""
    raw = encode_results(results)
    report = {"rows": _rows(results), **{key: raw[key] for key in ("taken_at", "machine", "versions", "rounds")}}
    return json.dumps(report, ensure_ascii=False, indent=2) + "\n"


def _rows(results: Results) -> list[dict[str, object]]:
    return [
        {
            "name": row.name,
            "value": None if row.value is None else round(row.value, 3),
            "bar": row.bar,
            "bar_is": "at least" if row.is_floor else "at most",
            "met": row.is_met,
        }
        for row in draw_rows(results)
    ]


def render_page(results: Results) -> str:
    """Return the page."""
    machine = results.machine
    rows = draw_rows(results)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(results.versions.items()))
    blocks = [
        "# What router and gateway cost",
        _PROSE.format(cpus=machine.cpus, rounds=results.rounds),
        f"Taken at {results.taken_at} in {results.took_s / 60:.1f} minutes on {machine.cpu}, {machine.cpus} CPUs, "
        f"{machine.memory_bytes / GIB:.0f} GiB, {machine.kernel}, with a load of {machine.load_before:g} in the minute "
        f"before. {versions}.",
        f"## Bars: {sum(row.is_met for row in rows)} of {len(rows)} met",
        _table(("", "value", "bar", ""), [_row(row) for row in rows]),
        "## Measured",
    ]
    for load in LOADS:
        blocks += [f"### {load.title[0].upper()}{load.title[1:]}", _measured(results, load)]
    return "\n\n".join(blocks) + "\n"


def _row(row: Claim) -> tuple[str, ...]:
    value = "none" if row.value is None else f"{row.value:.2f}"
    bar = f"{'at least' if row.is_floor else 'at most'} {row.bar:.2f}"
    return row.name, value, bar, "met" if row.is_met else "**not met**"


def _measured(results: Results, load: Load) -> str:
    head = ("", "answers/s", "p50 ms", "p99 ms", "CPU µs: Triton", "proxy", "client", "all")
    return _table(head, [_cells(way, results.of(way, load)) for way in load.ways])


def _cells(way: Way, samples: Sequence[Sample]) -> tuple[str, ...]:
    def spread(name: str, scale: float, digits: int) -> str:
        values = [getattr(sample, name) * scale for sample in samples]
        found = middle(samples, name)
        if found is None:
            return "–"
        return f"{found * scale:.{digits}f} [{min(values):.{digits}f}–{max(values):.{digits}f}]"

    shares = [middle(samples, f"{name}_cpu_s") for name in ("triton", "proxy", "client")]
    cpu = ["–" if share is None else f"{share * 1e6:.0f}" for share in shares]
    total = sum(share for share in shares if share is not None)
    return (
        way,
        spread("answers_per_s", 1, 0),
        spread("p50_s", 1e3, 2),
        spread("p99_s", 1e3, 2),
        *cpu,
        f"{total * 1e6:.0f}",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
