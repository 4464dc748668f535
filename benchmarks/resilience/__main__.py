"""``python -m benchmarks.resilience``: run the scenarios, write what they showed, tell what is met."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.controller.claims import Claim
from benchmarks.controller.machine import describe_machine, list_versions
from benchmarks.resilience.burst import run_burst
from benchmarks.resilience.claims import draw_claims
from benchmarks.resilience.faults import FAULTS
from benchmarks.resilience.outage import run_outage
from benchmarks.resilience.page import render_json, render_page
from benchmarks.resilience.picture import draw_picture
from benchmarks.resilience.results import Results, parse_results, replace_scenarios
from benchmarks.resilience.soak import run_soak
from orchestrator.errors import SlimError

BURST, SOAK = "burst", "soak"
SCENARIOS = (*FAULTS, BURST, SOAK)
STEM = "resilience"
Say = Callable[[str], None]


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True)
@click.option(
    "--only", multiple=True, type=click.Choice(SCENARIOS), help="Run these alone; without --from, write nothing."
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Write anew from a run's JSON; with --only, after running these again.",
)
@click.option("--soak-minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Of mixed load.")
def main(repository: Path, out: Path, only: tuple[str, ...], source: Path | None, soak_minutes: float) -> None:
    """Run the benchmark of resilience; the exit status is 1 when a claim is not met."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")

    if source is None:
        results = asyncio.run(_run(repository, only or SCENARIOS, soak_minutes, say))
    else:
        try:
            results = parse_results(json.loads(source.read_text())["raw"])
        except SlimError as exc:
            raise click.ClickException(f"{source}: {exc}") from exc
        if only:
            results = replace_scenarios(results, asyncio.run(_run(repository, only, soak_minutes, say)), only)
    claims = draw_claims(results)
    for claim in claims:
        click.echo(_line(claim))
    for name, reason in results.failures.items():
        click.echo(f"NO NUMBERS  {name}: {reason}")
    if only and source is None:
        click.echo(render_json(results))
    else:
        for path in _write(results, out):
            click.echo(str(path))
    if results.failures or not all(claim.is_met for claim in claims):
        sys.exit(1)


async def _run(repository: Path, names: tuple[str, ...], soak_minutes: float, say: Say) -> Results:
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it started first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = Results(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=list_versions(),
        failures={},
    )
    for name in names:
        say(f"{name} begins")
        with tempfile.TemporaryDirectory(prefix="bench-resilience-") as folder:
            try:
                results = await _run_one(name, results, repository, Path(folder), soak_minutes, say)
            except (SlimError, TimeoutError, OSError) as exc:
                reason = f"{type(exc).__name__}: {exc}"
                say(f"{name} failed: {reason}")
                results = replace(results, failures={**results.failures, name: reason})
    return results


async def _run_one(
    name: str, results: Results, repository: Path, folder: Path, soak_minutes: float, say: Say
) -> Results:
    if name == BURST:
        return replace(results, burst=await run_burst(repository, folder, say))
    if name == SOAK:
        return replace(results, soak=await run_soak(repository, folder, say, minutes=soak_minutes))
    return replace(results, outages={**results.outages, name: await run_outage(name, repository, folder, say)})


def _write(results: Results, out: Path) -> tuple[Path, ...]:
    out.mkdir(parents=True, exist_ok=True)
    page, data, picture = (out / f"{STEM}.{ending}" for ending in ("md", "json", "png"))
    drawn = draw_picture(results)
    if drawn is not None:
        picture.write_bytes(drawn)
    data.write_text(render_json(results))
    page.write_text(render_page(results, picture=None if drawn is None else picture.name))
    return (page, data) if drawn is None else (page, data, picture)


def _line(claim: Claim) -> str:
    value = "none" if claim.value is None else f"{claim.value:.2f}"
    sign = ">=" if claim.is_floor else "<="
    return f"{'met    ' if claim.is_met else 'NOT MET'}  {claim.name}: {value} {sign} {claim.bar:.2f} {claim.unit}"


if __name__ == "__main__":
    main()
