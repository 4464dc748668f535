"""Whose turn it is when requests of several families wait: by deadline, as long as nobody has had more than its share.

Deadlines alone let whoever floods the queue have all of it: what is late is due first. So each family has a virtual
time, the seconds of the servers that it was given for each unit of its weight (start-time fair queueing; Goyal, Vin and
Cheng, SIGCOMM'96). A family whose virtual time leads that of the one furthest behind by more than ``LEAD_S`` goes after
those that don't lead; among them, and among the leading ones, the earlier deadline goes first. Whatever nobody else
can use a leading family still gets.

Only what waits counts. A family that had nothing to do starts where the one furthest behind is, so that it has no claim
to what it did not use, and a family that had the servers for itself owes nobody for that.

A batch that was sent can't be called back, so turns alone don't help who comes when all servers hold full batches. A
family that takes more than its share of all servers, while others have lately used theirs, may therefore have no
batches waiting at servers, and none that runs for longer than a part of the time that the others' requests have. What
that costs in throughput it pays itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from orchestrator.snapshot import Family

LEAD_S = 0.01
"""Servers' time by which a family may lead while deadlines decide: some batches, a tenth of the default deadline."""
USE_S = 0.25
"""Time constant of how much of the servers a family uses: a flood is seen in a tenth of a second."""
RECENT_S = 5.0
"""Time after its last batch for which a family counts as one that uses the servers."""
LONGEST_PART = 0.25
"""Part of another family's time to its deadline that a batch may take which that family has to wait for."""


class _Use(NamedTuple):
    """What a family has used lately: servers on average, at some time, and what its last request had of time."""

    servers: float
    at_s: float
    allowed_s: float

    def servers_at(self, now_s: float) -> float:
        return self.servers * math.exp((self.at_s - now_s) / USE_S)


class FamilyTurns:
    """The virtual time of each family, in seconds; ``weights`` are above 0, and 1 for families without one."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = weights or {}
        self._virtual_s: dict[Family, float] = {}
        self._now_s = 0.0
        self._uses: dict[Family, _Use] = {}

    def weight(self, family: Family | None) -> float:
        """Return the weight of a family."""
        return self.weights.get(family or "", 1.0)

    def leading(self, waiting: Collection[Family]) -> frozenset[Family]:
        """Return which of the families that wait now, at least one, have had so much that others go first."""
        virtual_s = {family: max(self._virtual_s.get(family, 0.0), self._now_s) for family in waiting}
        self._virtual_s |= virtual_s
        self._now_s = min(virtual_s.values())
        return frozenset(family for family, at_s in virtual_s.items() if at_s - self._now_s > LEAD_S)

    def charge(self, family: Family, run_s: float, allowed_s: float, *, now_s: float) -> None:
        """Count a batch that was sent and takes a server about so long.

        Its first request had ``allowed_s`` from when it came to its deadline. The clock never goes back.
        """
        self._virtual_s[family] = self._virtual_s.get(family, 0.0) + run_s / self.weight(family)
        use = self._uses.get(family)
        lately = 0.0 if use is None else use.servers_at(now_s)
        self._uses[family] = _Use(lately + run_s / USE_S, now_s, allowed_s)

    def longest_run_s(self, family: Family, servers: int, *, now_s: float) -> float:
        """Return how long a batch of a family may run on one of so many servers, and then none may wait there.

        Infinite for a family that has lately had no more than its share of the servers, and where no other used any.
        """
        if len(self._uses) < 2 or family not in self._uses:
            return math.inf
        others = [other for other, use in self._uses.items() if other != family and now_s - use.at_s <= RECENT_S]
        weight = self.weight(family)
        share = servers * weight / (weight + sum(map(self.weight, others)))
        if not others or self._uses[family].servers_at(now_s) <= share:
            return math.inf
        return LONGEST_PART * min(self._uses[other].allowed_s for other in others)
