"""How long each kind of change takes on this host, measured.

Until a kind has been seen its price is what it took on NVIDIA's image and the embedded server at the slow end
(docs/architecture.md); from then on a decaying mean of what it took here, per kind, because widths differ far less
than kinds do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.actions import ActionKind, Outcome

UNMEASURED_S: Mapping[ActionKind, float] = {
    ActionKind.LOAD: 1.5,
    ActionKind.SCALE_UP: 0.3,
    ActionKind.SCALE_DOWN: 1.2,
    ActionKind.RELOAD: 1.5,
    ActionKind.UNLOAD: 0.5,
}
KEPT_RATIO = 0.7
"""Weight of the old mean when a new measurement comes."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Mean duration of each kind of action that has been seen; immutable."""

    measured_s: Mapping[ActionKind, float] = field(default_factory=dict)

    def price_s(self, kind: ActionKind) -> float:
        """Return what an action of this kind is expected to take."""
        return self.measured_s.get(kind, UNMEASURED_S[kind])

    def record(self, outcome: Outcome) -> Prices:
        """Return the prices after an action; failed ones end early or late and teach nothing."""
        if outcome.error is not None:
            return self
        kind, took_s = outcome.action.kind, outcome.ended_s - outcome.began_s
        old_s = self.measured_s.get(kind)
        mean_s = took_s if old_s is None else KEPT_RATIO * old_s + (1 - KEPT_RATIO) * took_s
        return replace(self, measured_s={**self.measured_s, kind: mean_s})
