"""What ``python -m benchmarks.NAME`` does: run, write, show which claims are met; status 1 when one is not."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from benchmarks.harness.run import AnyRun, ScenarioRun, parse_run
from orchestrator.errors import SlimError
from orchestrator.reporting.blocks import Block, render_markdown
from orchestrator.reporting.claim import Claim
from orchestrator.reporting.outputs import write_report

Say = Callable[[str], None]
"""Takes a line about what happens."""
Scenario = Callable[[Path, Say], Awaitable[Any]]
"""Runs with a folder for its files and returns its raw numbers."""
Found = TypeVar("Found")
Results = TypeVar("Results", bound=ScenarioRun)

DOCS = Path("docs/benchmarks")


def path_option(name: str, default: Path) -> Callable[[Any], Any]:
    """Return an option for a path."""
    return click.option(name, type=click.Path(path_type=Path), default=default, show_default=True)


repository_option = path_option("--repository", Path("model_repository"))
out_option = path_option("--out", DOCS)
source_option = click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Write anew from a run's JSON; with --only, after running these again.",
)


def start_clock() -> Say:
    """Return what prints a line with the time since now."""
    began_s = time.monotonic()
    return lambda text: click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")


def run_to_end(work: Coroutine[Any, Any, Found]) -> Found:
    """Run to the end; asked to end before, it ends what it started first: servers, gateways and load.

    Raises click.ClickException when what is needed is missing or fails.
    """

    async def cancellable() -> Found:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except SlimError as exc:
        raise click.ClickException(str(exc)) from exc


def publish(
    stem: str,
    out: Path,
    document: Mapping[str, Any],
    page: Sequence[Block],
    *,
    picture: bytes | None = None,
    indent: int | None = None,
) -> None:
    """Write page, JSON and picture, a PNG if there is one, to a folder and print where they are.

    Without ``indent`` the JSON is one line.
    """
    separators = None if indent else (",", ":")
    contents: dict[str, str | bytes] = {
        f"{stem}.md": render_markdown(page),
        f"{stem}.json": json.dumps(document, ensure_ascii=False, indent=indent, separators=separators) + "\n",
        **({} if picture is None else {f"{stem}.png": picture}),
    }
    for path in write_report(out, contents, "name another with --out"):
        click.echo(str(path))


def conclude(claims: Sequence[Claim], failures: Mapping[str, str] | None = None) -> None:
    """Print what is met, and why a scenario has no numbers; end with status 1 when not all is well."""
    for claim in claims:
        click.echo(str(claim))
    for name, reason in (failures or {}).items():
        click.echo(f"NO NUMBERS  {name}: {reason}")
    if failures or not all(claim.is_met for claim in claims):
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[Results]):
    """A benchmark of several scenarios.

    Attributes:
        stem: The name of its files.
        what: Its name in errors.
        results: What its runs are.
        draw_claims: Holds a run against what is promised.
        make_page: Makes the page of a run with the name of its picture; None: it has none.
        draw_picture: Draws a run as PNG; None where nothing of it can be drawn.
    """

    stem: str
    what: str
    results: type[Results]
    draw_claims: Callable[[Results], Sequence[Claim]]
    make_page: Callable[[Results, str | None], Iterable[Block]]
    draw_picture: Callable[[Results], bytes | None]

    def run(self, scenarios: Mapping[str, Scenario], *, out: Path, only: Sequence[str], source: Path | None) -> None:
        """Run scenarios, or read a run, or read one and run some of them again; write and show what came of it.

        With ``only`` these run alone, and nothing is written, but for those of a run that is read from ``source``.
        """
        say = start_clock()
        if source is None:
            run = run_to_end(self._run(scenarios, only or tuple(scenarios), say))
        else:
            run = read_run(self.results, source, self.what)
            if only:
                run = run.taken_from(run_to_end(self._run(scenarios, only, say)), only)
        claims = self.draw_claims(run)
        document = run.encode_with(claims)
        if only and source is None:
            click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        else:
            picture = self.draw_picture(run)
            page = self.make_page(run, None if picture is None else f"{self.stem}.png")
            publish(self.stem, out, document, list(page), picture=picture)
        conclude(claims, run.failures)

    async def _run(self, scenarios: Mapping[str, Scenario], names: Sequence[str], say: Say) -> Results:
        began_s, run = time.monotonic(), self.results.begin()
        for name in names:
            say(f"{name} begins")
            with tempfile.TemporaryDirectory(prefix=f"bench-{self.stem}-") as folder:
                try:
                    run = run.with_found(name, await scenarios[name](Path(folder), say))
                except (SlimError, TimeoutError, OSError) as exc:
                    reason = f"{type(exc).__name__}: {exc}"
                    say(f"{name} failed: {reason}")
                    run = replace(run, failures={**run.failures, name: reason})
        return replace(run, took_s=time.monotonic() - began_s)


def read_run(kind: type[AnyRun], source: Path, what: str) -> AnyRun:
    """Return the run of a document; raises click.ClickException when it holds none."""
    try:
        return parse_run(kind, json.loads(source.read_text())["raw"], what)
    except SlimError as exc:
        raise click.ClickException(f"{source}: {exc}") from exc
