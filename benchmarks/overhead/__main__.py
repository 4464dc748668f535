"""``python -m benchmarks.overhead``: measure, write page, JSON and report, show which bars are met."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.harness.command import (
    Say,
    conclude,
    out_option,
    path_option,
    publish,
    read_run,
    repository_option,
    run_to_end,
    source_option,
    start_clock,
)
from benchmarks.overhead.cells import Results
from benchmarks.overhead.measure import run_all
from benchmarks.overhead.page import make_page
from benchmarks.overhead.rows import draw_rows

WHAT = "overhead benchmark"


@click.command()
@repository_option
@out_option
@path_option("--report", Path("reports/bench-overhead.json"))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@source_option
def main(repository: Path, out: Path, report: Path, rounds: int, source: Path | None) -> None:
    """Run the benchmark of router and gateway; the exit status is 1 when a bar is missed."""
    results = read_run(Results, source, WHAT) if source else run_to_end(_run(repository, rounds, start_clock()))
    rows = draw_rows(results)
    document = results.encode_with(rows, key="rows")
    publish("overhead", out, document, list(make_page(results)))
    report.parent.mkdir(parents=True, exist_ok=True)
    short = {key: value for key, value in document.items() if key != "raw"} | {"rounds": results.rounds}
    report.write_text(json.dumps(short, ensure_ascii=False, indent=2) + "\n")
    conclude(rows)


async def _run(repository: Path, rounds: int, say: Say) -> Results:
    results, began_s = Results.begin(rounds=rounds, samples=()), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as folder:
        samples = await run_all(repository, Path(folder), rounds, say)
    return replace(results, took_s=time.monotonic() - began_s, samples=samples)


if __name__ == "__main__":
    main()
