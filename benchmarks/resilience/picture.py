"""The picture of a run: each fault and the burst over time, and the memory of the soak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.resilience.results import Results, Soak, TimeBin
from benchmarks.resilience.time_bins import TIME_BIN_S
from orchestrator.reporting.pictures import draw_image, hide_frame

WIDTHS = {"25": "#c6dbef", "50": "#9ecae1", "75": "#4292c6", "100": "#08519c"}
RED, ORANGE, GREY = "#c0392b", "#d9825b", "#999999"


def draw_picture(results: Results) -> bytes | None:
    """Return the picture as PNG; None when no scenario has numbers."""
    shown: list[tuple[str, Sequence[TimeBin], tuple[float, ...], float]] = [
        (outage.name, outage.moments, (outage.fault_at_s, outage.mended_at_s), outage.deadline_s)
        for outage in results.outages.values()
    ]
    if results.burst is not None:
        starts = tuple(phase.from_s for phase in results.burst.phases[1:])
        shown.append(("burst", results.burst.moments, starts, results.burst.deadline_s))
    rows = len(shown) + (results.soak is not None)
    if not rows:
        return None

    def draw(figure: Any) -> None:
        axes = figure.subplots(rows, 2, squeeze=False)
        for row, (name, time_bins, marks_s, deadline_s) in enumerate(shown):
            _draw_answers(axes[row][0], name, time_bins, marks_s)
            _draw_latency(axes[row][1], time_bins, marks_s, deadline_s)
        if results.soak is not None:
            _draw_soak(axes[-1], results.soak)
        hide_frame(*axes.flat)

    return draw_image(draw, (11, 2.3 * rows), dpi=90)


def _draw_answers(axes: Any, name: str, time_bins: Sequence[TimeBin], marks_s: Sequence[float]) -> None:
    at_s = [time_bin.at_s for time_bin in time_bins]
    layers = [[time_bin.by_width.get(width, 0) / TIME_BIN_S for time_bin in time_bins] for width in WIDTHS]
    layers += [[m.refused / TIME_BIN_S for m in time_bins], [m.lost / TIME_BIN_S for m in time_bins]]
    labels = [*(f"{width} %" for width in WIDTHS), "refused", "lost"]
    axes.stackplot(at_s, *layers, labels=labels, colors=[*WIDTHS.values(), ORANGE, RED], step="post")
    for mark_s in marks_s:
        axes.axvline(mark_s, color=GREY, linestyle=":")
    axes.set(title=f"{name}: what became of requests", ylabel="a second", ylim=(0, None))
    axes.legend(frameon=False, loc="upper right", fontsize="x-small", ncols=3)


def _draw_latency(axes: Any, time_bins: Sequence[TimeBin], marks_s: Sequence[float], deadline_s: float) -> None:
    for values, label, style in (
        ([(m.at_s, m.p50_s) for m in time_bins], "median", "-"),
        ([(m.at_s, m.worst_s) for m in time_bins], "longest", "."),
    ):
        found = [(at_s, value) for at_s, value in values if value is not None]
        axes.plot([at for at, _ in found], [value * 1e3 for _, value in found], style, label=label, markersize=3)
    axes.axhline(deadline_s * 1e3, color=RED, linestyle="--", label="deadline")
    for mark_s in marks_s:
        axes.axvline(mark_s, color=GREY, linestyle=":")
    axes.set(title="latency of answers", ylabel="ms", yscale="log")
    axes.legend(frameon=False, loc="upper right", fontsize="x-small", ncols=3)


def _draw_soak(axes: Sequence[Any], soak: Soak) -> None:
    left, right = axes
    for process in soak.processes:
        minutes = [at_s / 60 for at_s in process.at_s]
        left.plot(minutes, [kib / 1024 for kib in process.rss_kib], label=process.name, linewidth=0.8)
        right.plot(minutes, process.descriptors, label=f"{process.name}, descriptors", linewidth=0.6)
    right.plot([at_s / 60 for at_s, _ in soak.tasks], [n for _, n in soak.tasks], label="tasks, both", linewidth=0.6)
    left.set(title="soak: memory (RssAnon)", ylabel="MiB", xlabel="minutes", ylim=(0, None))
    right.set(title="soak: descriptors and tasks", xlabel="minutes", ylim=(0, None))
    for each in axes:
        each.legend(frameon=False, fontsize="x-small")
