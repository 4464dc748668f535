"""``slimsched bounds``: what no policy can do better than, on a scenario."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from orchestrator.cli.options import FILE, SHIPPED_FILE, FiniteRange, dask_option, processes_option
from orchestrator.cli.research.output import figures_table, wide_console
from orchestrator.errors import ConfigError, NotKeptError
from orchestrator.evaluation.cases import identities
from orchestrator.evaluation.kept import keep_results
from orchestrator.executors import open_executor
from orchestrator.installed.extras import check_extra
from orchestrator.policies.parsing import parse_policy
from orchestrator.reporting.blocks import say_figure
from orchestrator.reporting.outputs import check_file, check_not_read, write_file
from orchestrator.simulation.bounds.overview import (
    FluidBounds,
    Window,
    earned_a_request,
    find_control_limits,
    find_fluid_bounds,
    measure_windows,
)
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.settings import load_scenario

_DEFAULT_POLICIES = ("lert:slack", "slackfit", "max-batch", "alert,goal=1")


@click.command()
@click.option("--scenario", "path", required=True, type=SHIPPED_FILE, help="YAML file.")
@click.option("--policy", "policies", multiple=True, help="To hold against the clairvoyant; several times for several.")
@click.option("--requests", default=24, type=click.IntRange(1, 60), help="Of a clairvoyant's window.")
@click.option("--windows", default=3, type=click.IntRange(0), help="Of as many traces; 0: none.")
@click.option(
    "--watt-ms",
    default=0.05,
    type=FiniteRange(0),
    help="For control limits: ms of mean response that a watt less is worth.",
)
@processes_option
@dask_option
@click.option("--out", type=FILE, help="Save all of it as JSON.")
def bounds(
    path: Path,
    policies: tuple[str, ...],
    requests: int,
    windows: int,
    watt_ms: float,
    processes: int,
    dask: str | None,
    out: Path | None,
) -> None:
    """Show the bounds of a scenario: fluid, of one server that batches, and of a clairvoyant on short windows.

    With --out what is done lies in OUT.partial meanwhile; after an interruption the same command goes on from there.

    \b
    Example:
      slimsched bounds --scenario scenarios/two-unlike.yaml --policy lert:slack
    """
    check_extra("'slimsched bounds'", "sim", "scipy")
    check_not_read(out, [path])
    check_file(out)
    settings, servers = load_scenario(path)
    names = policies or _DEFAULT_POLICIES
    parsed = [parse_policy(name) for name in names]
    console = wide_console()
    fluid = find_fluid_bounds(settings, servers)
    _print_fluid(console, settings.name, fluid)
    limits = list(find_control_limits(settings, servers, worth_s=watt_ms / 1e3))
    _print_limits(console, limits, watt_ms)
    about = {"scenario": digest_scenario(settings, servers), "policies": identities(names), "requests": requests}
    about["windows"] = windows
    found: list[Window] = []
    with (
        open_executor(processes=processes, dask=dask) as pool,
        keep_results(out, about, Window, pool) as execute,
    ):
        try:
            found = measure_windows(settings, servers, parsed, requests=requests, windows=windows, execute=execute)
        except NotKeptError:  # which says nothing of a clairvoyant
            raise
        except ConfigError as exc:
            console.print(f"no clairvoyant: {exc}")
        if out is not None:
            rows = [
                {"seed": n, "most": w.bound.most, "planned": w.bound.earned, **dict(zip(names, w.earned, strict=True))}
                for n, w in enumerate(found)
            ]
            values = {"scenario": settings.name, "fluid": asdict(fluid), "control_limits": limits, "windows": rows}
            write_file(out, json.dumps(values, indent=1) + "\n")
    _print_windows(console, names, found)


def _print_fluid(console: Console, name: str, fluid: FluidBounds) -> None:
    if fluid.most_accuracy is None:
        console.print(f"{name}: {fluid.rate_rps:.0f} items/s are more than the fleet serves for good")
        return
    title = f"{name}: {fluid.rate_rps:.0f} items/s, for good and by the fluid bound"
    table = figures_table(title, ("accuracy at least", "J/item at the least"))
    for accuracy, joules in fluid.least_joules:
        table.add_row(f"{accuracy:.4f}", say_figure(joules, ".4f"))
    console.print(table)


def _print_limits(console: Console, rows: Sequence[dict[str, Any]], watt_ms: float) -> None:
    title = f"each kind of server alone: the control limit of the least response + {watt_ms:g} ms a watt"
    headings = ("width", "items/s", "limit", "response ms", "W above idle", "limit 1: ms", "W")
    table = figures_table(title, headings, names=("server",))
    for row in rows:
        figures = [1e3 * row["best_response_s"], row["best_power_w"], 1e3 * row["greedy_response_s"]]
        cells = [str(row["width"]), f"{row['rate_rps']:.0f}", str(row["limit"])]
        table.add_row(row["server"], *cells, *(f"{x:.2f}" for x in (*figures, row["greedy_power_w"])))
    console.print(table)


def _print_windows(console: Console, policies: Sequence[str], windows: Sequence[Window]) -> None:
    if not windows:
        return
    count, requests = len(windows), windows[0].requests
    title = f"{count} windows of the first {requests} requests: earned a request, in points of accuracy"
    table = figures_table(title, ("earned", "a clairvoyant at most", "left to it"), names=("policy",))
    most, earned = earned_a_request(windows)
    for name, own in zip(policies, earned, strict=True):
        table.add_row(name, f"{own:.4f}", f"{most:.4f}", f"{(most - own) / most:.2%}" if most > 0 else "-")
    console.print(table)
