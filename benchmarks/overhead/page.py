"""The page of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.harness.run import page_head
from benchmarks.overhead.cells import Load, Results, Sample, Way, middle
from benchmarks.overhead.rows import LOADS, draw_rows
from orchestrator.reporting.blocks import Block, Heading, Table

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


def make_page(results: Results) -> Iterator[Block]:
    """Yield the page."""
    prose = _PROSE.format(cpus=results.machine.cpus, rounds=results.rounds)
    yield from page_head("What router and gateway cost", prose, results, draw_rows(results))
    yield Heading(2, "Measured")
    for load in LOADS:
        yield Heading(3, f"{load.title[0].upper()}{load.title[1:]}")
        yield _measured(results, load)


def _measured(results: Results, load: Load) -> Table:
    head = ("", "answers/s", "p50 ms", "p99 ms", "CPU µs: Triton", "proxy", "client", "all")
    return Table(head, [_cells(way, results.of(way, load)) for way in load.ways])


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
