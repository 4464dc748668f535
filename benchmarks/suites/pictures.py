"""Each scenario in four panels: the frontier, latencies, widths over time, and who did the work.

Of some thirty policies the frontier names a few and shows the others as dots; the other panels show the few alone:
random, the guard's fallback, the best heuristic on validation, and the learned ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.suites.choices import best_heuristic, best_point
from benchmarks.suites.policies import FALLBACK, RANDOM
from orchestrator.evaluation.cases import LEARNED, is_learned
from orchestrator.evaluation.figures import LATENCY_EDGES_S
from orchestrator.evaluation.scores import ScenarioScores, Score
from orchestrator.evaluation.statistics import estimate_iqm
from orchestrator.reporting.pictures import draw_svg, hide_frame

_COLOURS: Final = ("#999999", "#2f6db3", "#4a9d6f", "#d9825b", "#8a5bb3", "#b33b5e", "#3ba3b3", "#7a6a3f")
_MOST_SERVERS: Final = 16
"""Shown one by one; of more the shares are stacked without names."""
_BOUND_POINTS: Final = 12


def draw_pictures(scenarios: Sequence[ScenarioScores]) -> dict[str, str]:
    """Return the picture of each test scenario as an SVG element, by its stem."""
    validation = {scenario.case.stem: scenario for scenario in scenarios if scenario.case.is_validation}
    found = {}
    for scenario in scenarios:
        if not scenario.case.is_validation:
            colours = dict(zip(_named(scenario, validation.get(scenario.case.stem)), _COLOURS, strict=False))
            found[scenario.case.stem] = draw_svg(partial(_draw, scenario, colours), (12, 8), salt=scenario.case.key)
    return found


def _named(scenario: ScenarioScores, validation: ScenarioScores | None) -> list[str]:
    """Return who is named, in the order of colours."""
    learned = [label for label in scenario.scores if is_learned(label)]
    wanted = (RANDOM, FALLBACK, best_heuristic(validation), LEARNED, best_point(validation), *learned)
    return [label for label in dict.fromkeys(wanted) if label in scenario.scores]


def _draw(scenario: ScenarioScores, colours: dict[str, str], figure: Any) -> None:
    (frontier, latency), (time, shares) = figure.subplots(2, 2)
    _frontier(frontier, scenario, colours)
    _latencies(latency, scenario, colours)
    _widths(time, scenario, colours)
    _shares(shares, scenario, colours)
    hide_frame(frontier, latency, time, shares)
    handles, labels = frontier.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def _frontier(axes: Any, scenario: ScenarioScores, colours: dict[str, str]) -> None:
    for label, score in scenario.scores.items():
        joules, accuracy = (estimate_iqm([score.figures[n]]) for n in ("joules_per_answer", "accuracy"))
        if math.isnan(joules.value) or math.isnan(accuracy.value):
            continue
        in_time = score.iqm("attainment_ratio")
        if label not in colours:
            axes.plot(joules.value, accuracy.value, "o", ms=3, color="#bbbbbb")
            continue
        bars = {
            f"{axis}err": [[max(0.0, found.value - found.interval.low)], [max(0.0, found.interval.high - found.value)]]
            for axis, found in (("x", joules), ("y", accuracy))
            if found.interval is not None
        }
        name = f"{label} ({in_time:.1%} in time)"
        axes.errorbar(joules.value, accuracy.value, fmt="o", ms=6, color=colours[label], label=name, **bars)
    _bound(axes, scenario)
    axes.set(title="accuracy over energy, 95 % intervals", xlabel="J a request, idle included", ylabel="accuracy")


def _bound(axes: Any, scenario: ScenarioScores) -> None:
    """Draw the least joules at each accuracy that the fleet can have."""
    if scenario.most_accuracy is None:
        return
    least = min(model.accuracy for server in scenario.fleet for model in server.models)
    levels = np.linspace(least, scenario.most_accuracy, _BOUND_POINTS)
    known = [(joules, a) for a in levels if (joules := scenario.bound_j(float(a))) is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "--", color="#555555", lw=1, label="fluid bound")


def _latencies(axes: Any, scenario: ScenarioScores, colours: dict[str, str]) -> None:
    for label, colour in colours.items():
        counts = scenario.scores[label].latency_counts
        if counts.sum():
            later = 1 - np.cumsum(counts) / counts.sum()
            shown = later > 0
            axes.plot(1e3 * LATENCY_EDGES_S[1:][shown], later[shown], color=colour)
    axes.axvline(1e3 * scenario.deadline_s, color="#555555", ls=":", lw=1)
    axes.set(xscale="log", yscale="log", ylim=(1e-4, 1.1), title="answers that take longer than … (dotted: deadline)")
    axes.set(xlabel="latency, ms", ylabel="share of the answers")


def _widths(axes: Any, scenario: ScenarioScores, colours: dict[str, str]) -> None:
    arrivals = axes.twinx()
    arrivals.set_ylabel("arrivals a second", color="#aaaaaa")
    arrivals.tick_params(axis="y", colors="#aaaaaa")
    for label, colour in colours.items():
        timeline = scenario.scores[label].timeline
        if timeline is None:
            continue
        at_s = (np.arange(len(timeline.width)) + 0.5) * timeline.until_s / len(timeline.width)
        if not arrivals.collections:
            arrivals.fill_between(at_s, timeline.arrivals_rps, color="#e6e6e6", step="mid")
        axes.plot(at_s, [np.nan if w is None else w for w in timeline.width], color=colour, lw=1.2)
    arrivals.set_ylim(0, None)
    axes.set_zorder(arrivals.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set(title="mean width of what arrived then, first trace", xlabel="s", ylabel="width, %", ylim=(0, 105))


def _shares(axes: Any, scenario: ScenarioScores, colours: dict[str, str]) -> None:
    labels = list(colours)[::-1]
    left = np.zeros(len(labels))
    own: list[Score] = [scenario.scores[label] for label in labels]
    shown = range(len(scenario.fleet))
    for server in shown:
        share = np.array([s.server_shares[server] if server < len(s.server_shares) else 0.0 for s in own])
        shade = f"C{server % 10}"
        bars = axes.barh(range(len(labels)), share, left=left, color=shade, alpha=0.75, edgecolor="white", lw=0.5)
        if len(shown) <= _MOST_SERVERS:
            wide = [str(scenario.fleet[server].name) if s > 0.1 else "" for s in share]
            axes.bar_label(bars, wide, label_type="center", fontsize=7)
        left = left + share
    axes.set_yticks(range(len(labels)), labels)
    axes.set(title="share of the items by server", xlim=(0, 1))
