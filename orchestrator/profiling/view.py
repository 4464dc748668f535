"""A profile as a table for the terminal, and its curves as a picture: a panel a server, a colour a width.

Points are measured means, whiskers reach up to the p99, lines are the fit a·n + b. Both axes are logarithmic, so that
the smallest batch of the narrowest width can be read beside the largest of the widest.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from orchestrator.errors import ConfigError
from orchestrator.profile.document import ModelProfile, Origin, Profile, ServerProfile
from orchestrator.reporting.pictures import check_matplotlib, draw_image, tone

_PANELS = 3
"""Side by side at most."""


def render_profile_table(profile: Profile) -> Table:
    """Return a row a model, for a terminal of 80 columns; behind its server the family, where there are several.

    Latencies of the smallest and the largest batch and the line a·n + b are in milliseconds, ``error`` is the line's
    on held-out batches, J a batch of one above idle, MiB an instance, ``load`` in seconds.
    """
    columns = ("server", "width", "1", "largest", "a", "b", "error", "J", "MiB", "load")
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, title="latency of a batch in ms, and a·n + b")
    if any(server.origin is Origin.EMULATED for server in profile.servers):
        table.caption = "(3×): the machine is emulated, so many times slower than this one"
    for column in table.columns[1:]:
        column.justify = "right"
    has_several = len({model.family for server in profile.servers for model in server.models}) > 1
    for server in profile.servers:
        for model in server.models:
            whose = f"{server.name} {model.family}" if has_several else server.name
            slowdown = f" ({server.slowdown:g}×)" if server.origin is Origin.EMULATED else ""
            table.add_row(f"{whose}{slowdown}", f"{model.width} %", *_figures(model))
    return table


def check_picture(path: Path) -> None:
    """Check, before the long work, that a picture could be drawn and written.

    Raises:
        ConfigError: when matplotlib or the folder is missing, or the name doesn't end in .png.
    """
    check_matplotlib()
    if path.suffix != ".png":
        raise ConfigError(f"--plot {path}: a picture's name ends in .png")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}; make it or name another")


def draw_picture(profile: Profile) -> bytes:
    """Return the curves of a profile as PNG."""
    columns = min(len(profile.servers), _PANELS)
    rows = math.ceil(len(profile.servers) / columns)

    def draw(figure: Any) -> None:
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        for panel, server in zip(panels, profile.servers, strict=False):
            _draw_server(panel, server)
        for panel in panels[len(profile.servers) :]:
            panel.set_visible(False)
        figure.suptitle(f"Latency of a batch: mean, p99 and fit · {profile.conditions.host}", fontsize=10)

    return draw_image(draw, (5.2 * columns, 4.2 * rows), dpi=110)


def _draw_server(panel: Any, server: ServerProfile) -> None:
    for index, model in enumerate(sorted(server.models, key=lambda each: (each.family, each.width))):
        color = tone(index / max(1, len(server.models) - 1))
        items = [batch.items for batch in model.batches]
        means_ms = [batch.mean_s * 1e3 for batch in model.batches]
        above_ms = [max(0.0, batch.p99_s - batch.mean_s) * 1e3 for batch in model.batches]
        fitted_ms = [(model.line.per_item_s * n + model.line.fixed_s) * 1e3 for n in items]
        error = model.line.held_out_error_ratio
        label = f"{model.width} %" + ("" if error is None else f", fit off by {error:.1%}")
        panel.plot(items, fitted_ms, color=color, linewidth=1)
        spread = [[0.0] * len(items), above_ms]
        style = {"fmt": "o", "color": color, "markersize": 4, "capsize": 2, "linewidth": 0.8}
        panel.errorbar(items, means_ms, yerr=spread, label=label, **style)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set(title=_describe_server(server), xlabel="items in the batch", ylabel="latency (ms)")
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=8, title="width", title_fontsize=8)


def _describe_server(server: ServerProfile) -> str:
    """Return a server's name with what must be known of its figures."""
    if server.origin is Origin.EMULATED:
        return f"{server.name}, emulated {server.slowdown:g}×"
    return f"{server.name}, synthetic" if server.origin is Origin.SYNTHETIC else server.name


def _figures(model: ModelProfile) -> list[str]:
    first, last, line, changes = model.batches[0], model.batches[-1], model.line, model.changes
    error = line.held_out_error_ratio
    instance_bytes = None if changes is None else changes.instance_bytes
    return [
        f"{first.mean_s * 1e3:.2f}",
        f"{last.mean_s * 1e3:.2f}",
        f"{line.per_item_s * 1e3:.3f}",
        f"{line.fixed_s * 1e3:.2f}",
        "-" if error is None else f"{error:.1%}",
        "-" if first.energy_j is None else f"{first.energy_j:.2g}",
        "-" if instance_bytes is None else f"{instance_bytes / 2**20:.0f}",
        "-" if changes is None else f"{changes.load.mean_s:.2f}",
    ]
