"""What is in force since when and why, as one value for the status page, the metrics and the decision log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force since when and why, and what is to follow it.

    Attributes:
        policy: The name of the policy in force.
        since_unix_s: Since when it is, as far as this process knows.
        candidate: The name of the policy of a file that is rolled out or was given up; empty when there is none.
        stage: Where that stands, in a word or two.
        share: The part of the time that it decides in.
        candidate_since_unix_s: Since when it stands there; 0 when there is none.
        candidate_why: Why.
    """

    policy: str
    since_unix_s: float
    why: str
    candidate: str = ""
    stage: str = ""
    share: float = 0.0
    candidate_since_unix_s: float = 0.0
    candidate_why: str = ""

    def told(self) -> dict[str, Any]:
        """Return what the decision log says of it, as JSON values."""
        in_force = {"policy": self.policy, "since": self.since_unix_s, "why": self.why}
        if not self.candidate:
            return {"in_force": in_force}
        since, why = self.candidate_since_unix_s, self.candidate_why
        rollout = {"candidate": self.candidate, "stage": self.stage, "since": since, "why": why}
        return {"in_force": in_force, "rollout": rollout}
