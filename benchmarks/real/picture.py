"""One picture: top-1 in time over load, for each set-up, quiet and beside other work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.real.results import Line
from benchmarks.real.testbed import DEFAULT, FIXED, IN_TURN, RULES, TRITON
from orchestrator.reporting.pictures import draw_image, hide_frame


def draw_picture(lines: Sequence[Line]) -> bytes:
    """Return a PNG of the cells with steady arrivals and the usual deadline, a panel for each fleet and condition."""
    return draw_image(partial(_draw, lines), (11, 7))


def _draw(lines: Sequence[Line], figure: Any) -> None:
    shown = [line for line in lines if line.cell.workload == "steady" and line.cell.deadline_s == 0.1]
    panels = list(dict.fromkeys((line.cell.fleet, line.cell.hogs) for line in shown))
    known = {line.set_up for line in shown}
    names = [name for name in (DEFAULT, *FIXED, *RULES, *TRITON, *IN_TURN) if name in known]
    axes = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    for axis, (fleet, hogs) in zip(axes, panels, strict=False):
        for name in names:
            points: dict[float, list[float]] = {}
            for line in shown:
                if (line.cell.fleet, line.cell.hogs, line.set_up) == (fleet, hogs, name):
                    points.setdefault(line.cell.ratio, []).append(100 * line.right_in_time)
            ratios = sorted(points)
            means = [sum(points[ratio]) / len(points[ratio]) for ratio in ratios]
            is_own = name == DEFAULT
            style: dict[str, Any] = {"color": "black", "linewidth": 3, "zorder": 9} if is_own else {"linewidth": 1}
            if name in TRITON or name in IN_TURN:
                style["linestyle"] = "--"
            axis.plot(ratios, means, marker="o", label=name, **style)
        axis.set(xscale="log", xlabel="load, of capacity at full width", title=f"{fleet}{', busy' if hogs else ''}")
        axis.set_xticks(sorted({line.cell.ratio for line in shown}), minor=False)
        axis.set_xticklabels([f"{ratio:g}" for ratio in sorted({line.cell.ratio for line in shown})])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 in time, %")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=6)
    hide_frame(*axes)
