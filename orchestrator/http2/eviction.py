"""Which connection is closed when there are too many, of those that wait for their clients.

One of the address that has most of them, so a client that opens a thousand connections closes its own: one on which
nothing was ever answered before the others, which spares a good client behind the same proxy, and then the one that has
waited longest, which is not the oldest. Shared by the HTTP/1.1 and HTTP/2 servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """A connection that waits for its client.

    Attributes:
        peer: address of the client.
        since_s: when it was last heard of, seconds on any one clock.
        was_answered: whether anything was ever answered on it.
    """

    peer: str
    since_s: float
    was_answered: bool = False


def choose_evicted(waiting: Sequence[Waiting]) -> int | None:
    """Return the index of the connection to close for another one's sake, None when none waits for its client.

    It is one of the address that has most of them: of those on which nothing was answered yet, else of all, the one
    that has waited longest; the first of equals.
    """
    if not waiting:
        return None
    counts = Counter(one.peer for one in waiting)
    most = max(counts.values())
    candidates = (i for i, one in enumerate(waiting) if counts[one.peer] == most)
    return min(candidates, key=lambda i: (waiting[i].was_answered, waiting[i].since_s, i))
