"""How a policy goes live whose file has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from orchestrator.config.section import Section


class RolloutSettings(Section):
    """The way of a changed ``policy_file`` to all traffic; see docs/learning.md#from-a-file-to-all-traffic."""

    shadow_decisions: int = Field(default=1000, ge=0)
    """Decisions that it is asked about, and not obeyed, before it may decide anything."""
    shares: tuple[Annotated[float, Field(gt=0, le=0.5)], ...] = (0.05, 0.25)
    """Parts of the time in which it decides, one after the other, before it is in force. Beyond a half the policy in
    force would be measured less and less beside it."""
    answers: int = Field(default=500, ge=1)
    """Requests that come in its own time and are counted, before it may leave a share."""
    tolerance: float = Field(default=0.01, gt=0)
    """Utility by which it may be below the policy in force and still go on: less would take hours to be seen."""
    slot_s: float | None = Field(default=None, gt=0)
    """How long one of both decides without a break. None: ten times ``deadline_ms``, and a second at least, so that
    most of what a slot shows is of its own making."""

    def _contradictions(self) -> Iterator[str]:
        if list(self.shares) != sorted(set(self.shares)):
            yield f"shares {list(self.shares)} don't ascend; sort them, and name each once"
