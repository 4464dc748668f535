"""Rules that know how fast each server is, and little or nothing of what it does just now.

The capacity of a server at a width is max over b of b/τ(b), with τ(b) = a·b + c fitted to what is observed: it is
reached by full batches on all its instances. A server that was never seen is guessed to be infinitely fast, so it is
tried before all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from orchestrator.decision import Candidate, Reason
from orchestrator.routing.policy import Situation


def drawn_by_capacity(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """Each server's chance is its share of the capacity: weighted random (WRAND).

    The split that loads unlike servers equally, as weighted load balancers do with weights set by hand.
    """
    unseen = [c for c in candidates if math.isinf(c.capacity_rps)]
    weights = [1.0] * len(unseen) if unseen else [c.capacity_rps for c in candidates]
    ends = list(accumulate(weights))
    drawn = situation.lots[1] * ends[-1]
    # The lot is below 1, but its product may be rounded up to the end.
    index = min(sum(end <= drawn for end in ends), len(ends) - 1)
    return (unseen or candidates)[index], Reason.DRAWN_BY_CAPACITY


def shortest_delay(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """The server with the least (n + m)/μ: n items it has, m the head's, μ its capacity.

    Shortest expected delay (SED), also called generalised join-the-shortest-queue (arXiv 1509.05533); there m is 1.
    Unlike least expected completion it does not ask what the items are: how wide, in which groups, how long they run.
    """
    head_items = situation.queue.head_items
    best = min(candidates, key=lambda c: ((c.server_items + head_items) / c.capacity_rps, -c.width, c.server))
    return best, Reason.LEAST_DELAY
