"""``slimsched tune``: the knobs of heuristics on scenarios, with the same budget for each."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.table import Column

from orchestrator.cli.options import FILE, SHIPPED_PATH, dask_option, processes_option
from orchestrator.cli.research.output import (
    counted_progress,
    figures_table,
    told_how_to_go_on,
    wide_console,
)
from orchestrator.evaluation.campaign import Records
from orchestrator.evaluation.tuning.campaign import (
    Extent,
    Trials,
    best_of,
    describe_tuning,
    find_scenarios,
    try_all,
    write_tuned,
)
from orchestrator.evaluation.tuning.space import check_tuned, tuned_policies
from orchestrator.executors import open_executor
from orchestrator.installed.extras import check_extra
from orchestrator.reporting.blocks import say_figure
from orchestrator.reporting.outputs import check_file, check_not_read

_DEFAULTS = Extent()


@click.command()
@click.option(
    "--scenario",
    "scenarios",
    required=True,
    multiple=True,
    type=SHIPPED_PATH,
    help="YAML file, or a folder of such; several times for several.",
)
@click.option("--policy", "policies", multiple=True, help="Only this one; several times for several.")
@click.option("--budget", default=_DEFAULTS.budget, type=click.IntRange(1), help="Trials a policy.")
@click.option("--traces", default=_DEFAULTS.traces, type=click.IntRange(1), help="Runs a trial.")
@click.option("--requests", type=click.IntRange(1), help="Per run at most; default: as the scenarios say.")
@click.option("--seed", default=_DEFAULTS.seed, type=click.IntRange(0), help="Of the trials.")
@processes_option
@dask_option
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has tried.")
@click.option("--out", required=True, type=FILE, help="Where to write, as JSON.")
def tune(
    scenarios: tuple[Path, ...],
    policies: tuple[str, ...],
    budget: int,
    traces: int,
    requests: int | None,
    seed: int,
    processes: int,
    dask: str | None,
    restart: bool,
    out: Path,
) -> None:
    """Try configurations of every heuristic on scenarios, as many of each, and keep the best.

    OUT gets the best of each policy, OUT's .trials.json every trial. What is done lies in OUT.partial meanwhile; after
    an interruption the same command goes on from there.

    \b
    Example:
      slimsched tune --scenario scenarios/validation --out runs/tuned.json
    """
    began_s = time.monotonic()
    check_extra("'slimsched tune'", "sim", "scipy")
    paths = [path.absolute() for path in find_scenarios(scenarios)]
    chosen = policies or tuned_policies()
    check_tuned(chosen)
    check_not_read(out, paths)
    check_file(out)
    extent = Extent(budget, traces, requests, seed)
    partial = out.with_name(out.name + ".partial")
    if restart:
        partial.unlink(missing_ok=True)
    records = Records(partial, seeds=1, resume=True)
    with (
        open_executor(processes=processes, dask=dask) as execute,
        records,
        told_how_to_go_on(partial),
        counted_progress("tuning") as progress,
    ):
        trials = try_all(paths, chosen, extent, records, execute=execute, progress=progress)
    took_s = time.monotonic() - began_s
    provenance = describe_tuning(
        scenarios, policies, extent, out, duration_s=took_s, processes=None if dask else processes
    )
    write_tuned(out, trials, provenance)
    partial.unlink(missing_ok=True)
    _print(trials)


def _print(trials: Trials) -> None:
    for stem in dict.fromkeys(stem for stem, _ in trials):
        names = ("policy", Column("best spec", overflow="fold"))
        table = figures_table(stem, ("utility", "of its default", "in time", "accuracy", "J/answer"), names=names)
        own = {policy: (best_of(found), found[0]) for (at, policy), found in trials.items() if at == stem}
        for policy, (best, default) in sorted(own.items(), key=lambda item: -item[1][0].utility):
            attainment, accuracy, _, joules, _, _ = best.figures
            figures = (say_figure(attainment, ".2%"), say_figure(accuracy, ".4f"), say_figure(joules, ".4g"))
            table.add_row(policy, best.spec, f"{best.utility:.4f}", f"{default.utility:.4f}", *figures)
        wide_console(120).print(table)
