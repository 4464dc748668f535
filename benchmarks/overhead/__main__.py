"""``python -m benchmarks.overhead``: measure, write page, JSON and report, tell which bars are met."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.controller.machine import describe_machine, list_versions
from benchmarks.overhead.cells import Results, parse_results
from benchmarks.overhead.measure import run_all
from benchmarks.overhead.page import render_json, render_page, render_report
from benchmarks.overhead.rows import draw_rows
from orchestrator.errors import SlimError

STEM = "overhead"


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True)
@click.option(
    "--report", type=click.Path(path_type=Path), default=Path("reports/bench-overhead.json"), show_default=True
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--from", "source", type=click.Path(path_type=Path, exists=True), help="Write anew from a run's JSON.")
def main(repository: Path, out: Path, report: Path, rounds: int, source: Path | None) -> None:
    """Run the benchmark of router and gateway; the exit status is 1 when a bar is missed."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")

    try:
        if source is None:
            results = asyncio.run(_run(repository, rounds, say))
        else:
            results = parse_results(json.loads(source.read_text())["raw"])
    except SlimError as exc:
        raise click.ClickException(str(exc)) from exc
    out.mkdir(parents=True, exist_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    (out / f"{STEM}.md").write_text(render_page(results))
    (out / f"{STEM}.json").write_text(render_json(results))
    report.write_text(render_report(results))
    rows = draw_rows(results)
    for row in rows:
        value = "none" if row.value is None else f"{row.value:.2f}"
        sign = ">=" if row.is_floor else "<="
        click.echo(f"{'met    ' if row.is_met else 'NOT MET'}  {row.name}: {value} {sign} {row.bar:.2f}")
    if not all(row.is_met for row in rows):
        sys.exit(1)


async def _run(repository: Path, rounds: int, say: Callable[[str], None]) -> Results:
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it started first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    machine, began_s = describe_machine(), time.monotonic()
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as folder:
        samples = await run_all(repository, Path(folder), rounds, say)
    return Results(taken_at, time.monotonic() - began_s, machine, list_versions(), rounds, samples)


if __name__ == "__main__":
    main()
