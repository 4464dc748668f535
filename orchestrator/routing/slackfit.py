"""SlackFit of SuperServe (Khare et al., NSDI'25, arXiv 2312.16733), our implementation.

Every (width, batch) has a latency. Buckets of equal span divide [least, most]; the slack of the most urgent request
names a bucket, and one pair of it is run. Low buckets hold small batches of narrow widths; high ones hold large
batches or wide widths: so a burst, which eats slack, lowers accuracy by itself, and quiet raises it.

The rule, for the server that is asked:

1. Its pairs are all allowed widths with batches of 1, 2, 4, … up to the model's most, and of exactly the head. The
   latency of a pair counts what the server has to do first, and the slack margin.
2. Of the buckets whose upper bound is at most the slack, the highest that holds a pair is taken. Below the lowest
   bound, pairs that are in time all the same are taken: the head has a deadline, not a bucket.
3. In it, the pair with the largest batch is taken and, of those, the widest (``slackfit``, as published: the most
   throughput); or the widest and, of those, the largest batch (``slackfit-accuracy``).
4. It runs with min(batch, what waits) items.

Where the slack is below the most latency and the queue is short, the published preference names a batch that can't be
filled, and so a narrower width than there would be time for; ``slackfit-accuracy`` does not.

Unlike servers each have buckets of their own, from their own profile: one scale over all would put everything that
the fast ones can do into the lowest bucket of the slow ones. The server that is asked is the one that is free first
among those with room on which the head is in time; SuperServe's idle workers ask by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.decision import Candidate, Reason
from orchestrator.routing.policy import Situation
from orchestrator.snapshot import Width

DEFAULT_BUCKETS = 16
"""Finer buckets use more of the slack, coarser ones leave more pairs to choose from; to be swept over 4 to 32."""


class _Pair(NamedTuple):
    """A width and a batch on the server that is asked."""

    latency_s: float
    batch: int
    candidate: Candidate


def by_throughput(pair: _Pair) -> tuple[float, ...]:
    """Prefer the largest batch, then the widest."""
    return (pair.batch, pair.candidate.width)


def by_accuracy(pair: _Pair) -> tuple[float, ...]:
    """Prefer the widest, then the largest batch."""
    return (pair.candidate.width, pair.batch)


@dataclass(frozen=True, slots=True)
class SlackFit:
    """The rule, as one of orchestrator.routing.central.

    Attributes:
        buckets: between the least and the most latency of a server.
        preference: which pair of a bucket is run.
    """

    buckets: int = DEFAULT_BUCKETS
    preference: Callable[[_Pair], tuple[float, ...]] = by_throughput

    def __call__(
        self, ready: Sequence[Candidate], candidates: Sequence[Candidate], situation: Situation
    ) -> tuple[Candidate, Reason]:
        """Return what the server that is free first runs."""
        asked = min(ready, key=lambda c: (c.wait_s, c.server)).server
        pairs = [p for c in candidates if c.server == asked for p in _pairs(c, situation)]
        pair = self._fill(pairs, {c.width for c in ready if c.server == asked}, situation)
        # Both are at least the head: pairs below it are never taken.
        return pair.candidate.with_items(min(pair.batch, pair.candidate.items)), Reason.SLACK_BUCKET

    def _fill(self, pairs: Sequence[_Pair], widths: Collection[Width], situation: Situation) -> _Pair:
        """Return the pair of one of ``widths`` that fills the slack best; each of them runs the head in time."""
        least_s, most_s = min(p.latency_s for p in pairs), max(p.latency_s for p in pairs)
        span_s = (most_s - least_s) / self.buckets

        def bucket(pair: _Pair) -> int:
            return min(int((pair.latency_s - least_s) / span_s), self.buckets - 1) if span_s > 0 else 0

        slack_s, head_items = situation.head_slack_s, situation.queue.head_items
        startable = [p for p in pairs if p.candidate.width in widths and p.batch >= head_items]
        in_time = [p for p in startable if p.latency_s <= slack_s]
        whole = [p for p in in_time if least_s + (bucket(p) + 1) * span_s <= slack_s]
        fitting = whole or in_time
        highest = max(bucket(p) for p in fitting)
        return max((p for p in fitting if bucket(p) == highest), key=self.preference)


def _pairs(candidate: Candidate, situation: Situation) -> Iterator[_Pair]:
    sizes = {1 << power for power in range(candidate.max_batch_size.bit_length())}
    for batch in sorted(sizes | {situation.queue.head_items, candidate.max_batch_size}):
        latency_s = candidate.wait_s + candidate.item_s * batch + candidate.group_s
        yield _Pair(latency_s * situation.slack_margin, batch, candidate)
