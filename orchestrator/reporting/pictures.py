"""Pictures, the only place that imports matplotlib: half a second that only those pay who draw.

Nothing of matplotlib's global state is used, so pictures can be drawn from any thread and leave nothing behind.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import check_extra

Draw = Callable[[Any], None]
"""Draws onto a matplotlib figure."""
_INK = "#0a0b0c"
"""A colour that no picture has, in place of which a page puts its own."""
_ON_PAGE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


def check_matplotlib(what: str = "the picture") -> None:
    """Raise ConfigError, before the long work that ends in what needs it, where pictures can't be drawn."""
    check_extra(what, "plot", "matplotlib")


def picture_kind(path: Path) -> str:
    """Return the format in which a picture is written to a path: the name's ending, and PNG where it has none.

    Raises:
        ConfigError: where pictures can't be drawn, or matplotlib writes none of that ending.
    """
    check_matplotlib(f"the picture {path}")
    from matplotlib.backend_bases import FigureCanvasBase

    kind, kinds = path.suffix.removeprefix(".").lower() or "png", sorted(FigureCanvasBase.get_supported_filetypes())
    if kind not in kinds:
        raise ConfigError(f"can't write the picture {path}: its name must end in one of {', '.join(kinds)}")
    return kind


def draw_image(draw: Draw, size_in: tuple[float, float], *, dpi: int = 100, kind: str = "png") -> bytes:
    """Return a picture as the content of a file.

    The size is width and height in inches, ``kind`` the ending of any format that matplotlib writes, see picture_kind.
    """
    from matplotlib.figure import Figure

    figure, sink = Figure(figsize=size_in, layout="constrained"), io.BytesIO()
    draw(figure)
    figure.savefig(sink, format=kind, dpi=dpi)
    return sink.getvalue()


def draw_svg(draw: Draw, size_in: tuple[float, float], *, salt: str) -> str:
    """Return a picture as an SVG element for a page: with its text as text, which is small and sharp, on no ground.

    Lines and text that are given no colour of their own have that of the page's text, be it dark or light. Ids are made
    of the salt; without one the same picture would have other ids in each run.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_ON_PAGE, "svg.hashsalt": salt}):
        figure, sink = Figure(figsize=size_in, layout="constrained"), io.StringIO()
        draw(figure)
        figure.savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()[sink.getvalue().index("<svg") :]
    # Names of groups, which nothing refers to; several pictures of a page would have the same.
    return re.sub(r' id="[A-Za-z0-9.]+_\d{1,3}"', "", text).replace(_INK, "currentColor")


def tone(ratio: float) -> Any:
    """Return a colour between light (0) and dark (1), for what has an order."""
    import matplotlib

    return matplotlib.colormaps["viridis_r"](ratio)


def hide_frame(*axes: Any) -> None:
    """Leave out the upper and the right line around each."""
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
