"""``slimsched evaluate``: a suite of scenarios, every policy on it, and the claims held against what came of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from orchestrator.cli.options import FOLDER, SHIPPED_FOLDER, dask_option
from orchestrator.cli.research.output import counted_progress, told_how_to_go_on, wide_console
from orchestrator.evaluation.campaign import Records, run_campaign
from orchestrator.evaluation.cases import Extent, plan_cases
from orchestrator.evaluation.document import describe_machine, make_document
from orchestrator.evaluation.page import check_outputs, claim_cells, write_outputs
from orchestrator.evaluation.scores import score_cases
from orchestrator.evaluation.suite import Suite, load_suite
from orchestrator.executors import open_executor
from orchestrator.reporting import blocks

_DEFAULTS = Extent()


@click.command()
@click.option("--suite", "name", default="frozen", metavar="NAME", help="Folder of test/ that holds the scenarios.")
@click.option("--out", type=FOLDER, default=Path("reports"), help="Folder for evaluation-SUITE.json, .md and .html.")
@click.option(
    "--scenarios",
    "root",
    type=SHIPPED_FOLDER,
    default=Path("scenarios"),
    help="Folder that holds test/SUITE, validation and tuned.json.",
)
@click.option("--policy", "policies", multiple=True, help="In place of the suite's; several times for several.")
@click.option("--without", multiple=True, help="A policy of the suite to leave out; several times for several.")
@click.option("--traces", default=_DEFAULTS.traces, type=click.IntRange(1), help="Per scenario.")
@click.option(
    "--validation-traces", default=_DEFAULTS.validation_traces, type=click.IntRange(0), help="Per validation scenario."
)
@click.option(
    "--seeds",
    default=_DEFAULTS.seeds,
    type=click.IntRange(1),
    help="Of the random numbers of a policy that draws any, on each trace.",
)
@click.option("--requests", type=click.IntRange(1), help="Per run at most; default: as the scenarios say.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; default: one a core.")
@dask_option
@click.option("--resume", is_flag=True, help="Go on from the runs that an earlier start has left.")
@click.option("--keep", is_flag=True, help="Leave the runs there, for a start with more policies or traces.")
def evaluate(
    name: str,
    out: Path,
    root: Path,
    policies: tuple[str, ...],
    without: tuple[str, ...],
    traces: int,
    validation_traces: int,
    seeds: int,
    requests: int | None,
    jobs: int | None,
    dask: str | None,
    resume: bool,
    keep: bool,
) -> None:
    """Hold policies against each other on a suite of scenarios; those of suite paper against its claims, too.

    All policies meet the same traces. What was run is kept in OUT/evaluation-SUITE.partial until the report is written;
    after an interruption the same command with --resume goes on from there.

    \b
    Example:
      slimsched evaluate --suite mine --scenarios my-scenarios --out runs/evaluation
      slimsched evaluate --suite paper --requests 5000 --traces 5 --without ppo-paper --out /tmp/quick
    """
    began_s = time.monotonic()
    extent = Extent(traces, validation_traces, seeds, requests)
    check_outputs(out)
    suite = load_suite(name, root)
    cases = plan_cases(name, policies or suite.policies, root.absolute(), extent, without=without)
    records = Records(out / f"evaluation-{name}.partial", seeds=seeds, resume=resume)
    processes = jobs or len(os.sched_getaffinity(0))
    with (
        open_executor(processes=processes, dask=dask) as execute,
        records,
        told_how_to_go_on(records.path, "--resume"),
        counted_progress(name) as progress,
    ):
        run_campaign(cases, records, seeds=seeds, execute=execute, progress=progress)
    scenarios = score_cases(cases, records.results)
    document = make_document(suite, extent, scenarios, describe_machine(time.monotonic() - began_s))
    written = write_outputs(suite, document, suite.draw_pictures(scenarios), out)
    if not keep:
        records.path.unlink(missing_ok=True)
    _print(suite, document)
    for path in written:
        click.echo(str(path))


def _print(suite: Suite, document: dict[str, Any]) -> None:
    """Print the claims, else the first table of what is compared."""
    claims = [(name, value, bar, met) for name, value, _, bar, met, _ in map(claim_cells, document["claims"])]
    compared = [block for block in suite.show_sections(document) if isinstance(block, blocks.Table)]
    shown = blocks.Table(("claim", "value", "bar", ""), claims) if claims else compared[0]
    table = Table(*shown.head, title=f"suite {suite.name}")
    for row in shown.rows:
        table.add_row(*(cell.strip("*`") for cell in row))
    wide_console().print(table)
