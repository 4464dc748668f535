"""How long a batch takes by its size, remembered size by size.

A plain fit with forgetting would lose what it rests on: once batching works, every batch has the same size, small
ones are forgotten, and the fixed part b, the very reason for batching, can no longer be told from a. So each size
class (a power of two) has a mean of its own, kept for as long as it may still be true, and the line is fitted through
the classes. With one class only the curve is unknown, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.profile.fit import LatencyFit

KEPT_RATIO = 0.8
"""Weight of a class's old mean when a window comes in."""
CLASS_MEMORY_S = 900.0
"""Age at which a class that was not seen again is forgotten; machines change."""
MIN_SPREAD = 1.5
"""Largest over smallest mean size below which two classes are one."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Batches of about one size, their means, and when a window of them was last seen on the controller's clock."""

    items: float
    run_s: float
    seen_s: float


@dataclass(frozen=True, slots=True)
class BatchCurve:
    """Mean duration by size class; immutable."""

    classes: Mapping[int, SizeClass] = field(default_factory=dict)

    def observe(self, items: float, run_s: float, *, now_s: float) -> BatchCurve:
        """Return the curve after a window in which batches of ``items`` on average took ``run_s`` on average.

        Where batches of one window differed in size, ``run_s`` leans to the larger ones (see ``Rates.service_s``). That
        takes from b and adds to a, so batching is thought to gain less than it does.
        """
        if items < 1:
            return self
        key = round(math.log2(items))
        old = self.classes.get(key)
        if old is not None:
            items = KEPT_RATIO * old.items + (1 - KEPT_RATIO) * items
            run_s = KEPT_RATIO * old.run_s + (1 - KEPT_RATIO) * run_s
        recent = {k: c for k, c in self.classes.items() if now_s - c.seen_s <= CLASS_MEMORY_S}
        return BatchCurve({**recent, key: SizeClass(items, run_s, now_s)})

    def line(self) -> tuple[float, float] | None:
        """Return (a seconds an item, b seconds a batch), neither below 0; None when sizes differ too little to tell."""
        sizes = [c.items for c in self.classes.values()]
        if not sizes or max(sizes) < MIN_SPREAD * min(sizes):
            return None
        classes = list(self.classes.values())
        return LatencyFit(
            weight=float(len(classes)),
            sum_n=sum(c.items for c in classes),
            sum_nn=sum(c.items * c.items for c in classes),
            sum_t_s=sum(c.run_s for c in classes),
            sum_nt_s=sum(c.items * c.run_s for c in classes),
        ).line()
