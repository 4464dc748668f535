"""The picture of a run: instances and queue over time, and memory against its budget."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.controller.results import Budget, Repetition, Results, Rising
from benchmarks.controller.trace import waits
from orchestrator.reporting.pictures import draw_image, hide_frame

MIB = 2**20
WAIT_WINDOW_S = 0.5
BLUE, GREEN, ORANGE, GREY = "#2f6db3", "#4a9d6f", "#d9825b", "#999999"


def draw_picture(results: Results) -> bytes | None:
    """Return the picture as PNG; None when neither scenario that it shows has numbers."""
    if results.rising is None and results.budget is None:
        return None
    return draw_image(partial(_draw, results), (9, 8))


def _draw(results: Results, figure: Any) -> None:
    top, middle, bottom = figure.subplots(3, 1)
    if results.rising is not None:
        shown = typical(results.rising)
        _draw_instances(top, shown)
        _draw_waits(middle, shown)
        middle.sharex(top)
    if results.budget is not None:
        _draw_memory(bottom, results.budget)
    hide_frame(top, middle, bottom)


def typical(rising: Rising) -> Repetition:
    """Return the repetition whose p99 under the controller is the median."""
    ordered = sorted(rising.repetitions, key=lambda r: r.controlled.p99_s)
    return ordered[(len(ordered) - 1) // 2]


def _draw_instances(axes: Any, shown: Repetition) -> None:
    at_s = [point.at_s for point in shown.trace]
    axes.step(at_s, [point.instances for point in shown.trace], where="post", color=BLUE)
    axes.set(
        title="load rises at 0 s and falls: the instances follow",
        ylabel="instances",
        yticks=range(max(point.instances for point in shown.trace) + 2),
    )
    axes.axvline(0, color=GREY, linestyle=":")
    if shown.shrank_after_s is not None:
        back_s = next((p.at_s for p in reversed(shown.trace) if p.instances > 1), at_s[-1])
        axes.axvline(back_s - shown.shrank_after_s, color=GREY, linestyle=":")


def _draw_waits(axes: Any, shown: Repetition) -> None:
    found = waits(shown.trace, window_s=WAIT_WINDOW_S)
    axes.plot([at_s for at_s, _ in found], [wait_s * 1e3 for _, wait_s in found], ".", color=ORANGE)
    axes.axhline(shown.fixed.p99_s * 1e3, color=GREY, linestyle="--", label="p99 with one fixed instance")
    axes.axhline(shown.controlled.p99_s * 1e3, color=GREEN, linestyle="--", label="p99 with the controller, grown")
    axes.set(title="mean wait for an instance, by half second", ylabel="ms", xlabel="seconds of load", ylim=(0, None))
    axes.legend(frameon=False, loc="upper right")


def _draw_memory(axes: Any, run: Budget) -> None:
    axes.step(range(len(run.peaks_bytes)), [used / MIB for used in run.peaks_bytes], where="post", color=BLUE)
    axes.axhline(run.budget_bytes / MIB, color=ORANGE, linestyle="--", label="budget")
    axes.set(
        title="memory of Triton and its stubs, largest reading of each second",
        ylabel="MiB",
        xlabel="seconds since before the daemon's start",
        ylim=(0, None),
    )
    axes.legend(frameon=False, loc="lower right")
