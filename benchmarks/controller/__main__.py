"""``python -m benchmarks.controller``: run the scenarios, write page, picture and JSON, tell what is met.

It is no command of ``slimsched``: users of the controller don't need it, and it installs what they don't.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.controller.budget import run_budget
from benchmarks.controller.claims import Claim, draw_claims
from benchmarks.controller.cost import run_cost
from benchmarks.controller.kills import run_kills
from benchmarks.controller.machine import describe_machine, list_versions
from benchmarks.controller.page import render_json, render_page
from benchmarks.controller.picture import draw_picture
from benchmarks.controller.reconfigurations import run_reconfigurations
from benchmarks.controller.results import Results, parse_results, replace_scenarios
from benchmarks.controller.rising import run_rising
from orchestrator.errors import SlimError

Scenario = Callable[[Path, Path, Callable[[str], None]], Awaitable[Any]]
SCENARIOS: dict[str, Scenario] = {
    "rising": run_rising,
    "reconfigurations": run_reconfigurations,
    "budget": run_budget,
    "kills": run_kills,
    "cost": run_cost,
}
STEM = "controller"


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Run these alone and write nothing.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Write anew from a run's JSON; with --only, after running these again.",
)
def main(repository: Path, out: Path, only: tuple[str, ...], source: Path | None) -> None:
    """Run the controller's benchmark; the exit status is 1 when a claim is not met."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")

    if source is None:
        results = asyncio.run(_run(repository, only or tuple(SCENARIOS), say))
    else:
        try:
            results = parse_results(json.loads(source.read_text())["raw"])
        except SlimError as exc:
            raise click.ClickException(f"{source}: {exc}") from exc
        if only:
            results = replace_scenarios(results, asyncio.run(_run(repository, only, say)), only)
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


async def _run(repository: Path, names: tuple[str, ...], say: Callable[[str], None]) -> Results:
    began_s = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it started first: the daemon, its Triton and the load.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results = Results(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=0.0,
        machine=describe_machine(),
        versions=list_versions(),
        failures={},
    )
    for name in names:
        say(f"{name} begins")
        with tempfile.TemporaryDirectory(prefix="bench-controller-") as folder:
            try:
                found = await SCENARIOS[name](repository, Path(folder), say)
            except (SlimError, TimeoutError, OSError) as exc:
                reason = f"{type(exc).__name__}: {exc}"
                say(f"{name} failed: {reason}")
                results = replace(results, failures={**results.failures, name: reason})
                continue
        results = replace(results, **{name: found})
    return replace(results, took_s=time.monotonic() - began_s)


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
