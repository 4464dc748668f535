"""A width ratio as an exact value.

Slimmable code traditionally carries the ratio as a float and looks it up in a list, which fails for 0.1 + 0.2
and friends. Here a width is a whole percentage: hashable, orderable and printable without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, DecimalException
from itertools import pairwise
from typing import NewType

from export.errors import WidthError

Width = NewType("Width", int)
"""Width ratio in whole percent, 1 to 100."""

CHANNEL_MULTIPLE = 4
"""Every layer of every width has a multiple of this many channels, so vector units are never left ragged."""


def parse_width(text: str) -> Width:
    """Return the width of a ratio such as ``0.25``; raises WidthError for anything but whole percent in (0, 1]."""
    try:
        percent = Decimal(text.strip()) * 100
    except DecimalException:
        raise WidthError(f"width {text!r} is not a number; give a ratio such as 0.25") from None
    # The limits come first: the whole number of 1e999997 takes half a minute to be made.
    if not percent.is_finite() or not 1 <= percent <= 100 or percent != int(percent):
        raise WidthError(f"width {text!r} is outside 0.01 to 1.00 in steps of 0.01; give a ratio such as 0.25")
    return Width(int(percent))


def parse_widths(text: str) -> tuple[Width, ...]:
    """Return the widths of a comma-separated list, ascending; raises WidthError, also for one that is given twice."""
    entries = [entry for entry in text.split(",") if entry.strip()]
    if not entries:
        raise WidthError("no width given; give a list such as 0.25,0.5,0.75,1.0")
    widths = sorted(map(parse_width, entries))
    twice = next((one for one, other in pairwise(widths) if one == other), None)
    if twice is not None:
        raise WidthError(f"width {render_ratio(twice)} is given twice in {text!r}; give it once")
    return tuple(widths)


def parse_percent(text: str) -> Width:
    """Return the width of a whole percentage such as ``30``; raises WidthError for anything but 1 to 100."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 100):
        raise WidthError(f"width {text!r} is no whole percentage from 1 to 100; give one such as 30")
    return Width(int(text))


def render_ratio(width: Width) -> str:
    """Return the ratio as text, ``0.25`` for ``Width(25)``."""
    return f"{width / 100:.2f}"


def useless_widths(qualities: Mapping[Width, float]) -> dict[Width, Width]:
    """Return the widths that are no better than a narrower one, which costs less, each with the best of those."""
    found: dict[Width, Width] = {}
    best: Width | None = None
    for width, quality in sorted(qualities.items()):
        if best is None or quality > qualities[best]:
            best = width
        else:
            found[width] = best
    return found


def width_key(width: Width) -> str:
    """Return the three-digit name used in model names and state dicts, ``w025`` for ``Width(25)``."""
    return f"w{width:03d}"


def active_channels(channels: int, width: Width) -> int:
    """Return how many of ``channels`` are active at ``width``: the nearest multiple of 4, at least 4."""
    nearest = (channels * width + 50 * CHANNEL_MULTIPLE) // (100 * CHANNEL_MULTIPLE)
    return CHANNEL_MULTIPLE * max(1, nearest)
