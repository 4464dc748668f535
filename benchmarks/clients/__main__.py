"""``python -m benchmarks.clients``: try all clients, write page and JSON, tell which claims are met."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.clients.measure import KserveFound, run_analyses, run_kserve
from benchmarks.clients.page import render_json, render_page
from benchmarks.clients.places import Places, open_places
from benchmarks.clients.results import Results, draw_claims
from benchmarks.controller.machine import describe_machine, list_versions
from orchestrator.errors import SlimError

STEM = "clients"


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True)
@click.option("--kserve", type=click.Path(path_type=Path), help="The Python of an environment that has kserve.")
def main(repository: Path, out: Path, kserve: Path | None) -> None:
    """Send foreign clients to a gateway; the exit status is 1 when a claim is not met."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")

    try:
        results = asyncio.run(_run(repository, kserve, say))
    except SlimError as exc:
        raise click.ClickException(str(exc)) from exc
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{STEM}.md").write_text(render_page(results))
    (out / f"{STEM}.json").write_text(render_json(results))
    claims = draw_claims(results)
    for claim in claims:
        value = "none" if claim.value is None else f"{claim.value:g}"
        click.echo(f"{'met    ' if claim.is_met else 'NOT MET'}  {claim.name}: {value}")
    if not all(claim.is_met for claim in claims):
        sys.exit(1)


async def _run(repository: Path, kserve: Path | None, say: Callable[[str], None]) -> Results:
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it started first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    machine, began_s = describe_machine(), time.monotonic()
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="bench-clients-") as folder:
        async with open_places(repository, Path(folder)) as places:
            say("kserve")
            found, problem = await _try_kserve(kserve, places)
            say(problem or f"  {len(found.calls)} calls")
            say("perf_analyzer")
            runs = await run_analyses(places, say)
    versions = list_versions() | ({"kserve": found.version} if found.version else {})
    took_s = time.monotonic() - began_s
    return Results(taken_at, took_s, machine, versions, runs, found.calls, found.left_out, problem)


async def _try_kserve(python: Path | None, places: Places) -> tuple[KserveFound, str]:
    if python is None or not python.exists():
        missing = "--kserve is not given" if python is None else f"there is no {python}"
        return KserveFound("", (), ()), f"kserve was not tried: {missing}; run: make bench-clients"
    try:
        return await run_kserve(python, places), ""
    except SlimError as exc:
        return KserveFound("", (), ()), f"kserve was not tried: {exc}"


if __name__ == "__main__":
    main()
