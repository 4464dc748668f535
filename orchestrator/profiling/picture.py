"""The curves of a profile as a picture: a panel a server, a colour a width.

Points are measured means, whiskers reach up to the p99, lines are the fit a·n + b. Both axes are logarithmic, so that
the smallest batch of the narrowest width can be read beside the largest of the widest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.profile import Profile, ServerProfile
from orchestrator.profiling.view import describe_server
from orchestrator.reporting.pictures import check_matplotlib, draw_image, tone

COLUMNS = 3


def check_picture(path: Path) -> None:
    """Check, before the long work, that a picture could be drawn and written.

    Raises:
        ConfigError: when matplotlib or the folder is missing, or the name doesn't end in .png.
    """
    check_matplotlib()
    if path.suffix != ".png":
        raise ConfigError(f"--plot {path}: a picture's name ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}; make it or name another")


def write_picture(profile: Profile, path: Path) -> None:
    """Write the curves of a profile as PNG.

    Raises:
        ConfigError: when the file can't be written.
    """
    try:
        write_atomically(path, draw_picture(profile))
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc.strerror}); choose another place") from exc


def draw_picture(profile: Profile) -> bytes:
    """Return the curves of a profile as PNG."""
    columns = min(len(profile.servers), COLUMNS)
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
        panel.errorbar(
            items,
            means_ms,
            yerr=[[0.0] * len(items), above_ms],
            fmt="o",
            color=color,
            markersize=4,
            capsize=2,
            linewidth=0.8,
            label=label,
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set(title=describe_server(server), xlabel="items in the batch", ylabel="latency (ms)")
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=8, title="width", title_fontsize=8)
