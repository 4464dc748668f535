"""``slimsched tune``: the knobs of heuristics on scenarios, with the same budget for each."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.evaluation.tuning.campaign import Extent, Trials, best_of, find_scenarios, run_campaign
from orchestrator.evaluation.tuning.document import describe_tuning, write_tuned
from orchestrator.evaluation.tuning.space import check_tuned, tuned_policies

_DEFAULTS = Extent()


@click.command()
@click.option(
    "--scenario",
    "scenarios",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="YAML file, or a folder of such; several times for several.",
)
@click.option("--policy", "policies", multiple=True, help="Only this one; several times for several.")
@click.option("--budget", default=_DEFAULTS.budget, show_default=True, type=click.IntRange(1), help="Trials a policy.")
@click.option("--traces", default=_DEFAULTS.traces, show_default=True, type=click.IntRange(1), help="Runs a trial.")
@click.option("--requests", type=click.IntRange(1), help="Per run at most; default: as the scenarios say.")
@click.option("--seed", default=_DEFAULTS.seed, show_default=True, type=click.IntRange(0), help="Of the trials.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1), help="Side by side.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has tried.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where to write, as JSON.")
def tune(
    scenarios: tuple[Path, ...],
    policies: tuple[str, ...],
    budget: int,
    traces: int,
    requests: int | None,
    seed: int,
    processes: int,
    restart: bool,
    out: Path,
) -> None:
    """Try configurations of every heuristic on scenarios, as many of each, and keep the best.

    OUT gets the best of each policy, OUT's .trials.json every trial. What is done lies in OUT.partial meanwhile; after
    an interruption the same command goes on from there.

    \b
    Example:
      slimsched tune --scenario scenarios/validation --out scenarios/tuned.json
    """
    began_s = time.monotonic()
    paths = find_scenarios(scenarios)
    chosen = policies or tuned_policies()
    check_tuned(chosen)
    extent = Extent(budget, traces, requests, seed)
    partial = out.with_name(out.name + ".partial")
    if restart:
        partial.unlink(missing_ok=True)
    columns = (TextColumn("tuning"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("tuning", total=None)
        trials = run_campaign(
            paths,
            chosen,
            extent,
            partial,
            processes=processes,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    took_s = time.monotonic() - began_s
    provenance = describe_tuning(scenarios, policies, extent, out, duration_s=took_s, processes=processes)
    write_tuned(out, trials, provenance)
    partial.unlink()
    _print(trials)


def _print(trials: Trials) -> None:
    for stem in dict.fromkeys(stem for stem, _ in trials):
        table = Table(title=stem)
        table.add_column("policy")
        table.add_column("best spec", overflow="fold")
        for heading in ("utility", "of its default", "in time", "accuracy", "J/answer"):
            table.add_column(heading, justify="right")
        own = {policy: (best_of(found), found[0]) for (at, policy), found in trials.items() if at == stem}
        for policy, (best, default) in sorted(own.items(), key=lambda item: -item[1][0].utility):
            attainment, accuracy, _, joules, _, _ = best.figures
            table.add_row(
                policy,
                best.spec,
                f"{best.utility:.4f}",
                f"{default.utility:.4f}",
                _form(attainment, ".2%"),
                _form(accuracy, ".4f"),
                _form(joules, ".4g"),
            )
        Console(width=max(120, Console().width)).print(table)


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
