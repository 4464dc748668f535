"""Each scenario in four panels: the frontier, latencies, widths over time, and who did the work.

Drawn by matplotlib as SVG with its text as text, which is small and sharp. Of some thirty policies the frontier names
a few and shows the others as dots; the other panels show the few alone: random, the guard's fallback, the best
heuristic on validation, and the learned ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.evaluation.figures import LATENCY_EDGES_S
from orchestrator.evaluation.policy_entries import LEARNED, is_learned
from orchestrator.evaluation.scores import Field, Score
from orchestrator.evaluation.statistics import estimate_iqm
from orchestrator.evaluation.suites.choices import best_heuristic, best_point, middle
from orchestrator.evaluation.suites.plan import FALLBACK, RANDOM

_COLOURS: Final = ("#999999", "#2f6db3", "#4a9d6f", "#d9825b", "#8a5bb3", "#b33b5e", "#3ba3b3", "#7a6a3f")
_MOST_SERVERS: Final = 16
"""Shown one by one; of more the shares are stacked without names."""
_BOUND_POINTS: Final = 12


def check_pictures() -> None:
    """Check, before the long work, that pictures could be drawn.

    Raises:
        ConfigError: when matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("the report's pictures need matplotlib: pip install 'slim-scheduler[plot]'")


def draw_pictures(fields: Sequence[Field]) -> dict[str, str]:
    """Return the picture of each test scenario as an SVG element."""
    validation = {field.case.stem: field for field in fields if field.case.is_validation}
    return {
        field.case.stem: _draw(field, _named(field, validation.get(field.case.stem)))
        for field in fields
        if not field.case.is_validation
    }


def _named(field: Field, validation: Field | None) -> list[str]:
    """Return who is named, in the order of colours."""
    learned = [label for label in field.scores if is_learned(label)]
    wanted = (RANDOM, FALLBACK, best_heuristic(validation), LEARNED, best_point(validation), *learned)
    return [label for label in dict.fromkeys(wanted) if label in field.scores][: len(_COLOURS)]


def _draw(field: Field, named: Sequence[str]) -> str:
    import matplotlib  # half a second that only reports pay

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = dict(zip(named, _COLOURS, strict=False))
    # Without a fixed salt the same picture would have other ids in each run.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": field.case.key, "font.size": 9}):
        figure, ((frontier, latency), (time, shares)) = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
        _frontier(frontier, field, colours)
        _latencies(latency, field, colours)
        _widths(time, field, colours)
        _shares(shares, field, colours)
        for axes in (frontier, latency, time, shares):
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = frontier.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _frontier(axes: Any, field: Field, colours: dict[str, str]) -> None:
    for label, score in field.scores.items():
        joules, accuracy = (estimate_iqm([score.figures[n]]) for n in ("joules_per_answer", "accuracy"))
        if math.isnan(joules.value) or math.isnan(accuracy.value):
            continue
        in_time = middle(score, "attainment_ratio")
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
    _bound(axes, field)
    axes.set(title="accuracy over energy, 95 % intervals", xlabel="J a request, idle included", ylabel="accuracy")


def _bound(axes: Any, field: Field) -> None:
    """Draw the least joules at each accuracy that the fleet can have."""
    if field.most_accuracy is None:
        return
    levels = np.linspace(field.utility_scale.least_accuracy, field.most_accuracy, _BOUND_POINTS)
    known = [(joules, a) for a in levels if (joules := field.bound_j(float(a))) is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "--", color="#555555", lw=1, label="fluid bound")


def _latencies(axes: Any, field: Field, colours: dict[str, str]) -> None:
    for label, colour in colours.items():
        counts = field.scores[label].latency_counts
        if counts.sum():
            later = 1 - np.cumsum(counts) / counts.sum()
            shown = later > 0
            axes.plot(1e3 * LATENCY_EDGES_S[1:][shown], later[shown], color=colour)
    axes.axvline(1e3 * field.deadline_s, color="#555555", ls=":", lw=1)
    axes.set(xscale="log", yscale="log", ylim=(1e-4, 1.1), title="answers that take longer than … (dotted: deadline)")
    axes.set(xlabel="latency, ms", ylabel="share of the answers")


def _widths(axes: Any, field: Field, colours: dict[str, str]) -> None:
    arrivals = axes.twinx()
    arrivals.set_ylabel("arrivals a second", color="#aaaaaa")
    arrivals.tick_params(axis="y", colors="#aaaaaa")
    for label, colour in colours.items():
        timeline = field.scores[label].timeline
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


def _shares(axes: Any, field: Field, colours: dict[str, str]) -> None:
    labels = list(colours)[::-1]
    left = np.zeros(len(labels))
    own: list[Score] = [field.scores[label] for label in labels]
    shown = range(len(field.server_names))
    for server in shown:
        share = np.array([s.server_shares[server] if server < len(s.server_shares) else 0.0 for s in own])
        shade = f"C{server % 10}"
        bars = axes.barh(range(len(labels)), share, left=left, color=shade, alpha=0.75, edgecolor="white", lw=0.5)
        if len(shown) <= _MOST_SERVERS:
            wide = [field.server_names[server] if s > 0.1 else "" for s in share]
            axes.bar_label(bars, wide, label_type="center", fontsize=7)
        left = left + share
    axes.set_yticks(range(len(labels)), labels)
    axes.set(title="share of the items by server", xlim=(0, 1))
