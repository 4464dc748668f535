"""Shares the energy of a window over the batches that ran in it.

A counter tells joules of a whole server over a second or more; batches take milliseconds. What the server would have
drawn idle, its idle power times the window, is nobody's and stays apart. The rest is shared in proportion to how long
each batch was busy within the window; two that ran side by side therefore count once each, and one that straddles two
windows gets a share of both. Shares and idle always add up to the counter: energy is handed on, never made or lost.

A window that drew less than idle (counters tick, readings are noisy) is all idle. So a mean over many short windows is
biased upwards; to measure, add the windows up first and share once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribution:
    """The energy of one window, shared.

    Attributes:
        idle_j: The idle energy, which is nobody's.
        shares_j: The energy of each batch above idle, in the order they were given.
    """

    idle_j: float
    shares_j: tuple[float, ...]


def attribute_energy(energy_j: float, *, duration_s: float, idle_w: float, busy_s: Sequence[float]) -> Attribution:
    """Share the energy of a window; idle and shares add up to ``energy_j``.

    Args:
        energy_j: The counter's difference from the begin to the end of the window; not negative.
        duration_s: The length of the window.
        idle_w: The power drawn while nothing runs.
        busy_s: The time for which each batch ran within the window; not negative.
    """
    idle_j = min(energy_j, idle_w * duration_s)
    total_s = math.fsum(busy_s)
    if total_s <= 0:
        return Attribution(energy_j, (0.0,) * len(busy_s))
    return Attribution(idle_j, tuple((energy_j - idle_j) * (each_s / total_s) for each_s in busy_s))
