"""``slimsched simulate``: policies on a scenario in virtual time, as a table, a file and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from orchestrator.errors import ConfigError
from orchestrator.policies import parse_policy
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario.capacity import most_accuracy
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation

_DEFAULT_POLICIES = ("random", "jsq", "lert", "lert:slack", "slackfit")


@click.command()
@click.option("--scenario", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="YAML file.")
@click.option("--policy", "policies", multiple=True, help="Several times for several; see docs/policies.md.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Traces, from seed 0 on.")
@click.option("--load", "load_ratio", type=click.FloatRange(0, min_open=True), help="In place of the scenario's.")
@click.option("--requests", type=click.IntRange(1), help="In place of the scenario's.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Save every figure as JSON.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Save accuracy over p99 as a picture.")
def simulate(
    path: Path,
    policies: tuple[str, ...],
    seeds: int,
    load_ratio: float | None,
    requests: int | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Run policies on a scenario in virtual time; all of them meet the same arrivals, noise and faults.

    \b
    Example:
      slimsched simulate --scenario scenarios/two-unlike.yaml --policy random --policy lert:slack --plot frontier.png
    """
    settings, servers = load_scenario(path)
    given = {"load_ratio": load_ratio, "requests": requests}
    changed = {key: value for key, value in given.items() if value is not None}
    settings = settings.model_copy(update={"workload": settings.workload.model_copy(update=changed)})
    chosen = [parse_policy(name) for name in policies or _DEFAULT_POLICIES]
    results: list[Result] = []
    rate_rps = 0.0
    for seed in range(seeds):
        trace = draw_trace(settings, servers, seed)
        rate_rps = trace.rate_rps
        for policy in chosen:
            simulation = Simulation(settings, servers, policy, trace=trace)
            simulation.run()
            results.append(summarise(simulation, seed=seed, warm_up_ratio=0.05))
    bound = most_accuracy(servers, rate_rps, min_accuracy=settings.objectives.min_accuracy)
    _print(results, settings.name, rate_rps, bound)
    if out is not None:
        values = {
            "scenario": settings.model_dump(mode="json"),
            "rate_rps": rate_rps,
            "most_accuracy": bound,
            "results": [asdict(r) for r in results],
        }
        _write(out, json.dumps(values, indent=1) + "\n")
    if plot is not None:
        _plot(results, plot)


def _print(results: list[Result], name: str, rate_rps: float, bound: float | None) -> None:
    above = (
        "more than the fleet serves for good" if bound is None else f"accuracy at most {bound:.4f} by the fluid bound"
    )
    table = Table(title=f"{name}: {rate_rps:.0f} items/s, {above}")
    table.add_column("policy")
    for heading in ("in time", "accuracy", "mean ms", "p99 ms", "goodput/s", "J/answer", "batch", "lost", "decisions"):
        table.add_column(heading, justify="right")
    for policy in dict.fromkeys(r.policy for r in results):
        own = [r for r in results if r.policy == policy]
        table.add_row(
            policy,
            _mean([r.attainment_ratio for r in own], ".2%"),
            _mean([r.accuracy for r in own], ".4f"),
            _mean([None if r.mean_s is None else 1e3 * r.mean_s for r in own], ".2f"),
            _mean([None if r.p99_s is None else 1e3 * r.p99_s for r in own], ".2f"),
            _mean([r.goodput_rps for r in own], ".0f"),
            _mean([r.joules_per_answer for r in own], ".3f"),
            _mean([r.mean_batch for r in own], ".2f"),
            _mean([float(r.shed + r.rejected + r.failed) for r in own], ".0f"),
            _mean([float(r.decisions) for r in own], ".0f"),
        )
    Console(width=max(110, Console().width)).print(table)


def _mean(values: list[float | None], form: str) -> str:
    """Return the mean over seeds; a dash where one is unknown."""
    known = [v for v in values if v is not None]
    return format(sum(known) / len(known), form) if known and len(known) == len(values) else "-"


def _plot(results: list[Result], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib; install it with pip install 'slim-scheduler[plot]'") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(r.policy for r in results):
        own = [r for r in results if r.policy == policy and r.p99_s is not None and r.accuracy is not None]
        axes.scatter([1e3 * (r.p99_s or 0) for r in own], [r.accuracy or 0 for r in own], label=policy)
    axes.set(xscale="log", xlabel="p99 latency, ms", ylabel="accuracy", title=results[0].scenario)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't write the picture {path} ({exc})") from exc


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc})") from exc
