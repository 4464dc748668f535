"""What the status page knows besides the metrics, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.router import FleetOverview


@dataclass(frozen=True, slots=True)
class Controller:
    """What was asked of the controller of a server: its status document, or why there is none."""

    status: Mapping[str, Any] | None
    reason: str = ""


def number_of(values: Any, *path: str) -> float | None:
    """Return a number of a controller's document; None where it is not there."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, int | float) and not isinstance(values, bool) else None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the log: its id, when it was made, a line about it, and all that can be said of it."""

    id: str
    unix_s: float
    family: str
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known besides the metrics.

    Attributes:
        unready: Why no requests are to be sent here; None: they may be.
        overview: What the routers know; None while no process has one.
        controllers: By server, of those that have one.
        decisions: The last ones that were written, newest first; None where none are written.
    """

    version: str
    unready: str | None
    overview: FleetOverview | None
    controllers: Mapping[str, Controller]
    decisions: Sequence[Decision] | None
