"""A policy that leaves time to what waits behind the head of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.policies.knobs import Knob
from orchestrator.policies.protocol import Binding, Situation


@dataclass(frozen=True)
class Saver:
    """The most accurate candidate that needs no more than a share of the time that is left."""

    name: str
    share: float = 0.5
    knobs: ClassVar = (Knob("share", at=0, default=0.5, least=0.1, most=1.0),)
    binding: ClassVar = Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Choose for the head of the queue."""
        free = [c for c in candidates if c.has_room]
        if not free:
            return Hold(Reason.BETTER_SERVER_BUSY)
        left_s = self.share * situation.head_slack_s
        in_time = [c for c in free if c.completion_s * situation.margin_of(c) <= left_s]
        if not in_time:
            return Dispatch(min(free, key=lambda c: c.drain_s), Reason.NONE_IN_TIME)
        return Dispatch(max(in_time, key=lambda c: (c.accuracy, -c.completion_s)), Reason.MOST_ACCURATE)
