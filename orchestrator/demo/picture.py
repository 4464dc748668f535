"""The load over time, and beside it of each baseline which width answered in time, and what was missed.

All panels have one time axis, so what baselines do at the same load stands at the same place in each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orchestrator.demo.results import Comparison, Score, Timeline, scores, timeline
from orchestrator.reporting.blocks import Picture
from orchestrator.reporting.pictures import draw_image, draw_svg, hide_frame

_MISSED, _LOAD = "#e4572e", "#7a8794"
_NARROWEST, _WIDEST = np.array((0.68, 0.85, 0.97)), np.array((0.11, 0.33, 0.62))
"""Blues between which widths are, so that they stand out from what was missed, on dark pages as on light ones."""
_COLUMNS = 3
_PANEL_IN = (4.3, 2.7)


def draw_panels(comparison: Comparison) -> list[Picture]:
    """Return the panels of a page, each with its legend, so that they can stand below each other too."""
    found, size_in = scores(comparison), (_PANEL_IN[0], _PANEL_IN[1] + 0.3)
    load = draw_svg(lambda figure: _draw_load(comparison, found[0], figure.subplots()), _PANEL_IN, salt="load")
    pictures = [Picture(load, text="The load over time, as a multiple of what the servers answer at full width")]
    for number, score in enumerate(found):
        svg = draw_svg(partial(_draw_baseline_alone, comparison, score), size_in, salt=f"baseline {number}")
        pictures.append(Picture(svg, text=_tell(comparison, score)))
    return pictures


def draw_picture(comparison: Comparison) -> bytes:
    """Return all panels as one PNG."""
    rows = -(-(1 + len(scores(comparison))) // _COLUMNS)
    return draw_image(partial(_draw_all, comparison), (_COLUMNS * _PANEL_IN[0], rows * _PANEL_IN[1] + 0.4), dpi=110)


def _draw_all(comparison: Comparison, figure: Any) -> None:
    found = scores(comparison)
    rows = -(-(1 + len(found)) // _COLUMNS)
    axes = figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False).flatten()
    _draw_load(comparison, found[0], axes[0])
    for axis, score in zip(axes[1:], found, strict=False):
        _draw_baseline(comparison, score, axis)
    for axis in axes[1 + len(found) :]:
        axis.set_axis_off()
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _draw_baseline_alone(comparison: Comparison, score: Score, figure: Any) -> None:
    axes = figure.subplots()
    _draw_baseline(comparison, score, axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, handlelength=0.9,
        handletextpad=0.4, columnspacing=0.9,
    )  # fmt: skip


def _draw_load(comparison: Comparison, score: Score, axes: Any) -> None:
    course = timeline(comparison, score.baseline.name)  # everybody got the same requests
    axes.stairs(course.load, course.ends_s, fill=True, color=_LOAD, alpha=0.45)
    axes.axhline(1.0, linestyle="--", linewidth=1.2, color=_MISSED)
    axes.annotate(
        "all the servers answer at full width", (0.02, 1.0), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    axes.set(xlim=(0, comparison.seconds), ylim=(0, max(1.3, 1.1 * course.load.max())), xlabel="seconds")
    axes.set_title("load", loc="left", fontweight="bold")
    axes.set_title(f"1 = {comparison.capacity_rps:.0f} images a second", loc="right", fontsize=9)
    hide_frame(axes)


def _draw_baseline(comparison: Comparison, score: Score, axes: Any) -> None:
    course = timeline(comparison, score.baseline.name)
    below = np.zeros(len(course.load))
    for label, share, colour in _layers(comparison, course):
        top = below + 100 * share
        axes.stairs(top, course.ends_s, baseline=below, fill=True, color=colour, label=label)
        below = top
    axes.set(xlim=(0, comparison.seconds), ylim=(0, 100), xlabel="seconds", ylabel="% of requests")
    axes.set_title(score.baseline.name, loc="left", fontweight="bold")
    axes.set_title(f"{score.missed:.1%} missed", loc="right", fontsize=9)
    hide_frame(axes)


def _layers(comparison: Comparison, course: Timeline) -> list[tuple[str, Any, Any]]:
    most = max(1, len(comparison.widths) - 1)
    widths = [
        (f"{width} %", course.answered[width], tuple(_NARROWEST + (_WIDEST - _NARROWEST) * index / most))
        for index, width in enumerate(comparison.widths)
    ]
    return [*widths, ("missed", course.missed, _MISSED)]


def _tell(comparison: Comparison, score: Score) -> str:
    """Return what a panel shows for those who can't see it: both ends of the time and its middle."""
    thirds = np.array_split(timeline(comparison, score.baseline.name).missed, 3)
    begins, middle, ends = (f"{missed.mean():.0%}" for missed in thirds)
    widths = ", ".join(f"{part:.0%} at {width} % width" for width, part in score.summary.widths.items() if width)
    return (
        f"{score.baseline.name}: in the first third of the time {begins} of the requests miss their deadline, {middle} "
        f"in the second, {ends} in the last; answers are {widths or 'none'}"
    )
