"""``slimsched simulate``: policies on a scenario in virtual time, as a table, a file and a picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Column

from orchestrator.cli.options import FILE, SHIPPED_FILE, FiniteRange, dask_option, processes_option
from orchestrator.cli.research.output import figures_table, wide_console
from orchestrator.config import RouterSettings
from orchestrator.evaluation.cases import identities
from orchestrator.evaluation.kept import keep_results
from orchestrator.executors import open_executor
from orchestrator.installed.extras import check_extra
from orchestrator.loadgen.comparison import mean_of
from orchestrator.policies.parsing import parse_policy
from orchestrator.reporting.blocks import say_figure
from orchestrator.reporting.outputs import check_file, check_not_read, write_file
from orchestrator.reporting.pictures import draw_image, picture_kind
from orchestrator.simulation.results import Comparison, Result, change_workload, compare_policies
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.settings import load_scenario

_DEFAULT_POLICIES = ("random", "jsq", "lert", "lert:narrowest", "lert:slack", "slackfit", RouterSettings().policy)
"""Dispatch without widths, both extremes of width, two rules of the literature, and a router's default."""
_FAMILY_COLUMNS = (
    ("requests", "requests", 1.0, ".0f"),
    ("in time", "attainment_ratio", 1.0, ".2%"),
    ("alone", "alone_ratio", 1.0, ".2%"),
    ("right in time", "effective_accuracy", 1.0, ".4f"),
    ("accuracy", "accuracy", 1.0, ".4f"),
    ("p99 ms", "p99_s", 1e3, ".2f"),
)
_MIN_COLUMNS = 135
_PICTURE = "the picture "
_COLUMNS = (
    ("right in time", "effective_accuracy", 1.0, ".4f"),
    ("in time", "attainment_ratio", 1.0, ".2%"),
    ("accuracy", "accuracy", 1.0, ".4f"),
    ("mean ms", "mean_s", 1e3, ".2f"),
    ("p99 ms", "p99_s", 1e3, ".2f"),
    ("goodput/s", "goodput_rps", 1.0, ".0f"),
    ("J/answer", "joules_per_answer", 1.0, ".3f"),
    ("batch", "mean_batch", 1.0, ".2f"),
    ("lost", "lost", 1.0, ".0f"),
    ("decisions", "decisions", 1.0, ".0f"),
)


@click.command()
@click.option("--scenario", "path", required=True, type=SHIPPED_FILE, help="YAML file.")
@click.option("--policy", "policies", multiple=True, help="Several times for several; see docs/policies.md.")
@click.option("--seeds", default=3, type=click.IntRange(1), help="Traces, from seed 0 on; of one there is no interval.")
@click.option("--load", "load_ratio", type=FiniteRange(0, min_open=True), help="In place of the scenario's.")
@click.option("--requests", type=click.IntRange(1), help="In place of the scenario's.")
@click.option("--alone", is_flag=True, help="Of several families, run the requests of each without the others' too.")
@processes_option
@dask_option
@click.option("--out", type=FILE, help="Save every figure as JSON.")
@click.option("--plot", type=FILE, help="Save what was right in time over p99, with 95 % intervals, as a picture.")
def simulate(
    path: Path,
    policies: tuple[str, ...],
    seeds: int,
    load_ratio: float | None,
    requests: int | None,
    alone: bool,
    processes: int,
    dask: str | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Run policies on a scenario in virtual time; all of them meet the same arrivals, noise and faults.

    With --out what is done lies in OUT.partial meanwhile; after an interruption the same command goes on from there.

    \b
    Example:
      slimsched simulate --scenario scenarios/two-unlike.yaml --policy random --policy lert:slack --plot frontier.png
    """
    check_extra("'slimsched simulate'", "sim", "scipy")
    kind = None if plot is None else picture_kind(plot)
    check_not_read(out, [path])
    check_file(out)
    check_file(plot, _PICTURE)
    settings, servers = load_scenario(path)
    settings = change_workload(settings, load_ratio=load_ratio, requests=requests)
    names = list(dict.fromkeys(policies or _DEFAULT_POLICIES))
    parsed = {name: parse_policy(name) for name in names}
    about = {"scenario": digest_scenario(settings, servers), "policies": identities(names), "alone": alone}
    about["seeds"] = seeds
    with (
        open_executor(processes=processes, dask=dask) as pool,
        keep_results(out, about, tuple[float, Result], pool) as execute,
    ):
        found = compare_policies(settings, servers, parsed, seeds=seeds, alone=alone, execute=execute)
        if out is not None:
            values = {
                "scenario": settings.model_dump(mode="json"),
                "rate_rps": found.rate_rps,
                "most_accuracy": found.most_accuracy,
                "results": [asdict(result) for result in found.results],
            }
            write_file(out, json.dumps(values, indent=1) + "\n")
    _print(found, settings.name)
    _print_families(found)
    if plot is not None and kind is not None:
        draw = partial(_draw, found, settings.objectives.deadline_ms)
        write_file(plot, draw_image(draw, (7, 4.5), kind=kind), _PICTURE)


def _print(found: Comparison, name: str) -> None:
    bound = found.most_accuracy
    if found.callers is not None:
        above = f"at the most, by callers who wait ({found.callers:,})"
    elif bound is None:
        above = "more than the fleet serves for good"
    else:
        above = f"accuracy at most {bound:.4f} by the fluid bound"
    headings = [heading for heading, *_ in _COLUMNS]
    headings.insert(1, "±")  # half of the 95 % interval
    table = figures_table(
        f"{name}: {found.rate_rps:.0f} items/s, {above}", headings, names=(Column("policy", no_wrap=True),)
    )
    for policy, means in found.averages().items():
        cells = [say_figure(means[name], form, scale) for _, name, scale, form in _COLUMNS]
        right = mean_of([result.effective_accuracy for result in found.by_policy()[policy]])
        cells.insert(1, f"{right.most - right.value:.4f}" if math.isfinite(right.most) else "-")
        table.add_row(policy, *cells)
    wide_console(_MIN_COLUMNS).print(table)


def _print_families(found: Comparison) -> None:
    families = found.family_averages()
    if not families:
        return
    headings = ["family", *(heading for heading, *_ in _FAMILY_COLUMNS)]
    table = figures_table(
        "Each family; alone: in time while nobody asks for the others",
        headings,
        names=(Column("policy", no_wrap=True),),
    )
    for (policy, family), means in families.items():
        cells = [say_figure(means[name], form, scale) for _, name, scale, form in _FAMILY_COLUMNS]
        table.add_row(policy, family, *cells)
    wide_console(_MIN_COLUMNS).print(table)


def _draw(found: Comparison, deadline_ms: float, figure: Any) -> None:
    axes = figure.subplots()
    for policy, results in found.by_policy().items():
        right = mean_of([result.effective_accuracy for result in results])
        p99s_ms = [1e3 * result.p99_s for result in results if result.p99_s is not None]
        if not p99s_ms:
            continue  # it answered nothing
        half = right.most - right.value if math.isfinite(right.most) else None
        at_ms = sum(p99s_ms) / len(p99s_ms)
        axes.errorbar([at_ms], [right.value], yerr=None if half is None else [half], fmt="o", capsize=3, label=policy)
        axes.annotate(policy, (at_ms, right.value), xytext=(6, 4), textcoords="offset points", fontsize="small")
    axes.set(xscale="log", xlabel="p99 latency, ms", ylabel="right in time", title=found.results[0].scenario)
    axes.axvline(deadline_ms, color="0.5", linestyle="--")
    axes.annotate("deadline", (deadline_ms, 0.02), xycoords=("data", "axes fraction"), rotation=90, color="0.4")
    axes.grid(alpha=0.3)
    axes.legend()
