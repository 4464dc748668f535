"""``slimsched bounds``: what no policy can do better than, on a scenario."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from orchestrator.errors import ConfigError
from orchestrator.policies import parse_policy
from orchestrator.simulation.bounds.batch_control import BatchServer
from orchestrator.simulation.bounds.gaps import measure_window
from orchestrator.simulation.scenario.capacity import least_joules, most_accuracy
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, load_scenario
from orchestrator.simulation.scenario.trace import draw_trace

_DEFAULT_POLICIES = ("lert:slack", "slackfit", "max-batch", "alert,goal=1")
_POINTS = 5


@click.command()
@click.option("--scenario", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="YAML file.")
@click.option("--policy", "policies", multiple=True, help="To hold against the clairvoyant; several times for several.")
@click.option(
    "--requests", default=24, show_default=True, type=click.IntRange(1, 60), help="Of a clairvoyant's window."
)
@click.option("--windows", default=3, show_default=True, type=click.IntRange(0), help="Of as many traces; 0: none.")
@click.option(
    "--watt-ms",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0),
    help="For control limits: ms of mean response that a watt less is worth.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Save all of it as JSON.")
def bounds(
    path: Path, policies: tuple[str, ...], requests: int, windows: int, watt_ms: float, out: Path | None
) -> None:
    """Show the bounds of a scenario: fluid, of one server that batches, and of a clairvoyant on short windows.

    \b
    Example:
      slimsched bounds --scenario scenarios/two-unlike.yaml --policy lert:slack
    """
    settings, servers = load_scenario(path)
    chosen = policies or _DEFAULT_POLICIES
    for name in chosen:
        parse_policy(name)
    console = Console(width=max(110, Console().width))
    found: dict[str, Any] = {
        "scenario": settings.name,
        "fluid": _fluid(settings, servers, console),
        "control_limits": _limits(settings, servers, watt_ms, console),
        "windows": _windows(settings, servers, chosen, requests, windows, console),
    }
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as exc:
            raise ConfigError(f"can't write {out} ({exc})") from exc


def _fluid(settings: ScenarioSettings, servers: Sequence[SimulatedServer], console: Console) -> dict[str, Any]:
    """Show the most accuracy, and the least joules at some accuracies up to it."""
    rate_rps = draw_trace(settings, servers, 0).rate_rps
    most = most_accuracy(servers, rate_rps, min_accuracy=settings.objectives.min_accuracy)
    if most is None:
        console.print(f"{settings.name}: {rate_rps:.0f} items/s are more than the fleet serves for good")
        return {"rate_rps": rate_rps, "most_accuracy": None, "least_joules": []}
    least = min(m.accuracy for s in servers for m in s.models)
    # The last point a hair below the most, which rounding would make impossible.
    points = [least + (most - 1e-9 - least) * at / (_POINTS - 1) for at in range(_POINTS)]
    rows = [(accuracy, least_joules(servers, rate_rps, accuracy)) for accuracy in points]
    table = Table(title=f"{settings.name}: {rate_rps:.0f} items/s, for good and by the fluid bound")
    for heading in ("accuracy at least", "J/item at the least"):
        table.add_column(heading, justify="right")
    for accuracy, joules in rows:
        table.add_row(f"{accuracy:.4f}", "-" if joules is None else f"{joules:.4f}")
    console.print(table)
    return {"rate_rps": rate_rps, "most_accuracy": most, "least_joules": rows}


def _limits(
    settings: ScenarioSettings, servers: Sequence[SimulatedServer], watt_ms: float, console: Console
) -> list[dict[str, Any]]:
    """Show optimal control limits of each kind of server, alone at the scenario's load of its own capacity."""
    rows: list[dict[str, Any]] = []
    seen = set()
    for server in servers:
        for model in server.models:
            if (server.models, model.width) in seen or model.energy_j is None or model.instances != 1:
                continue
            seen.add((server.models, model.width))
            rate_rps = min(settings.workload.load_ratio, 0.95) * model.capacity_rps
            alone = BatchServer(model.service_s, model.energy_j, rate_rps)
            best = alone.optimum(worth=watt_ms / 1e3)
            greedy = alone.evaluate(alone.greedy(), worth=watt_ms / 1e3)
            row: dict[str, Any] = {
                "server": server.name,
                "width": model.width,
                "rate_rps": rate_rps,
                "limit": best.limit,
            }
            for name, rule in (("best", best), ("greedy", greedy)):
                row |= {f"{name}_response_s": rule.response_s, f"{name}_power_w": rule.power_w}
            rows.append(row)
    table = Table(title=f"each kind of server alone: the control limit of the least response + {watt_ms:g} ms a watt")
    for heading in ("server", "width", "items/s", "limit", "response ms", "W above idle", "limit 1: ms", "W"):
        table.add_column(heading, justify="left" if heading == "server" else "right")
    for row in rows:
        figures = [1e3 * row["best_response_s"], row["best_power_w"], 1e3 * row["greedy_response_s"]]
        cells = [str(row["width"]), f"{row['rate_rps']:.0f}", str(row["limit"])]
        table.add_row(row["server"], *cells, *(f"{x:.2f}" for x in (*figures, row["greedy_power_w"])))
    console.print(table)
    return rows


def _windows(
    settings: ScenarioSettings,
    servers: Sequence[SimulatedServer],
    policies: Sequence[str],
    requests: int,
    windows: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Show what policies leave to a clairvoyant; nothing where it can't plan."""
    parsed = [parse_policy(name) for name in policies]
    try:
        found = [measure_window(settings, servers, parsed, requests=requests, seed=seed) for seed in range(windows)]
    except ConfigError as exc:
        console.print(f"no clairvoyant: {exc}")
        return []
    if not found:
        return []
    table = Table(title=f"{windows} windows of the first {requests} requests: earned a request, in points of accuracy")
    table.add_column("policy")
    for heading in ("earned", "a clairvoyant at most", "left to it"):
        table.add_column(heading, justify="right")
    most = sum(w.bound.most for w in found) / (windows * requests)
    for at, name in enumerate(policies):
        earned = sum(w.earned[at] for w in found) / (windows * requests)
        table.add_row(name, f"{earned:.4f}", f"{most:.4f}", f"{(most - earned) / most:.2%}" if most > 0 else "-")
    console.print(table)
    return [
        {"seed": seed, "most": w.bound.most, "planned": w.bound.earned, **dict(zip(policies, w.earned, strict=True))}
        for seed, w in enumerate(found)
    ]
