"""Who asked for which width to be kept loaded, and until when.

A demand is a lease, never a switch: whoever wants a width for longer asks again. So a client that died, or a
controller that was restarted and forgot, leads to the same state within the time of one lease.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import CapacityError, ConfigError
from orchestrator.snapshot import ModelName

MAX_HOLD_S = 3600.0
"""Longest lease: it must be renewed at least so often, so that a forgotten one ends; what is wanted for good belongs in
wanted_widths."""
MAX_DEMANDS = 256
"""More models than a host's families have widths; a client that asks for invented names can't fill the memory."""


@dataclass(frozen=True, slots=True)
class Demands:
    """Leases by model, each with the time on the controller's clock at which it ends; immutable."""

    until_s: Mapping[ModelName, float] = field(default_factory=dict)

    def hold(self, model: ModelName, hold_s: float, *, now_s: float) -> Demands:
        """Return the demands with a model kept for ``hold_s`` from now; a longer lease of it stands.

        Raises:
            ConfigError: when ``hold_s`` is no time that may be asked for.
            CapacityError: when too many models are asked for.
        """
        if not (math.isfinite(hold_s) and 0 < hold_s <= MAX_HOLD_S):
            raise ConfigError(f"{model} can't be held for {hold_s:g} s; ask for more than 0 and at most {MAX_HOLD_S:g}")
        kept = self.at(now_s).until_s
        if model not in kept and len(kept) >= MAX_DEMANDS:
            raise CapacityError(f"{model} can't be held: {len(kept)} models are asked for already; wait until some end")
        return Demands({**kept, model: max(now_s + hold_s, kept.get(model, 0.0))})

    def at(self, now_s: float) -> Demands:
        """Return those that have not ended."""
        return Demands({model: until_s for model, until_s in self.until_s.items() if now_s < until_s})
