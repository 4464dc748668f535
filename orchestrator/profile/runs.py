"""What a server did between two answers, and which answers came from one execution."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.snapshot import ModelName


@dataclass(frozen=True, slots=True)
class Run:
    """What a server did between two answers.

    Attributes:
        began_s: When the batch reached the head of the server's queue: when it was sent, or at the answer before it.
        ended_s: When the answer came, on the same clock.
    """

    model: ModelName
    items: int
    began_s: float
    ended_s: float


TOGETHER_RATIO = 0.05
"""Two answers closer than this part of the first one's time came from one execution; so is a millisecond."""


def merge_runs(earlier: Run, later: Run, *, later_sent_s: float) -> Run | None:
    """Return both as one run when the server ran them together, None when it ran them one after the other.

    Triton's dynamic batcher joins batches of one model that wait at the same time. Their answers come at once, so the
    first seems to have taken all the time and the second none; as one run of all items they tell the truth.
    """
    apart_s = later.ended_s - earlier.ended_s
    together_s = max(1e-3, TOGETHER_RATIO * (earlier.ended_s - earlier.began_s))
    if earlier.model != later.model or later_sent_s > earlier.ended_s or apart_s > together_s:
        return None
    return replace(earlier, items=earlier.items + later.items, ended_s=later.ended_s)
