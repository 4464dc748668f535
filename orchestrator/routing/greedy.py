"""The two greedy policies that SuperServe is compared with: all for accuracy, or all for the batch.

Khare et al., NSDI'25, arXiv 2312.16733; as known to us: MaxAcc takes the most accurate subnet that is in time with a
batch of one, then the largest batch; MaxBatch the largest batch that the smallest subnet runs in time, then the most
accurate subnet that runs it in time. A candidate's group is the largest that is in time, so each is one comparison.
Our smallest batch is the head, which can't be split. Ties go to the server that answers first, then to the first by
name.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.decision import Candidate, Reason
from orchestrator.routing.policy import Situation


def most_accurate(
    ready: Sequence[Candidate], candidates: Sequence[Candidate], situation: Situation
) -> tuple[Candidate, Reason]:
    """The widest that is in time, then the largest group."""
    best = min(ready, key=lambda c: (-c.width, -c.items, c.completion_s, c.server))
    return best, Reason.MOST_ACCURATE


def largest_batch(
    ready: Sequence[Candidate], candidates: Sequence[Candidate], situation: Situation
) -> tuple[Candidate, Reason]:
    """The largest group that is in time, then the widest that runs as many."""
    best = min(ready, key=lambda c: (-c.items, -c.width, c.completion_s, c.server))
    return best, Reason.LARGEST_BATCH
