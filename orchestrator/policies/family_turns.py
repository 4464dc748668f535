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
batches waiting at servers, and none that runs for longer than a part of the time that the others' requests have. So may
one that takes less, if it has far more time than others: whoever has as little keeps batches short for its own sake,
but one that has two seconds would fill a server for all of another's tenth of a second. It has a right to the time, not
to have it at once. What that costs in throughput it pays itself. Who has lately been refused counts like who has used
the servers: whose requests have a tenth of a second would else never get in where each batch takes two.

And a family that counts on all servers while others have a part of them takes wider networks than it has time for, and
is late by its own doing. So policies know what part of the servers' time it can count on, and see to it that what waits
is answered within that.

What is known of each family stands in a table, [field, family], of lists in a live router and of an array in the
simulator, which compiles the functions of such a table; therefore none of them calls another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from orchestrator.policies.tables.compiled import Table
from orchestrator.snapshot import Family

LEAD_S = 0.01
"""Servers' time by which a family may lead while deadlines decide: some batches, a tenth of the default deadline."""
USE_S = 0.25
"""Time constant of how much of the servers a family uses."""
BRIEF_S = 0.15
"""Over no less than that it is an average: the first batches of a family are no flood."""
RECENT_S = 5.0
"""Time after its last batch or refusal for which a family counts as one that uses the servers."""
LONGEST_PART = 0.25
"""Part of another family's time to its deadline that a batch may take which that family has to wait for."""
PATIENT = 2.5
"""Times as much as another's that the time of a family is which can well do with short batches."""

WEIGHT: Final = 0  # above 0
VIRTUAL_S: Final = 1
USED_SERVERS: Final = 2  # on average lately, at USED_AT_S
USED_AT_S: Final = 3  # of its last batch or refusal; negative infinity before the first
ALLOWED_S: Final = 4  # the time that the first request of that batch had from when it came to its deadline
WAITS: Final = 5  # 1 while something waits
LEADS: Final = 6  # 1 for who has had so much that others go first
BEGAN_S: Final = 7  # when it began to use servers, after RECENT_S in which it did not
TURN_FIELDS: Final = 8

Turns = Table | list[list[float]]
"""What is known of each family, [TURN_FIELDS or more, family]."""


def new_turns(weight: float) -> list[float]:
    """Return the fields of a family that had nothing to do yet."""
    return [weight, 0.0, 0.0, -math.inf, 0.0, 0.0, 0.0, 0.0]


def mark_leading(turns: Turns, families: int, clock_s: float) -> float:
    """Mark which of the families that wait lead, at least one; return the virtual time of the one furthest behind.

    That is what ``clock_s`` is the next time, 0 at first.
    """
    least_s = math.inf
    for family in range(families):
        if turns[WAITS][family] != 0:
            turns[VIRTUAL_S][family] = max(turns[VIRTUAL_S][family], clock_s)
            least_s = min(least_s, turns[VIRTUAL_S][family])
    for family in range(families):
        is_leading = turns[WAITS][family] != 0 and turns[VIRTUAL_S][family] - least_s > LEAD_S
        turns[LEADS][family] = 1.0 if is_leading else 0.0
    return least_s


def charge(turns: Turns, family: int, run_s: float, allowed_s: float, now_s: float) -> None:
    """Count a batch that was sent and takes a server about so long.

    Its first request had ``allowed_s`` from when it came to its deadline. The clock never goes back. A request that was
    refused although an idle server could have answered it in time is counted as a batch of no length.
    """
    turns[VIRTUAL_S][family] += run_s / turns[WEIGHT][family]
    if now_s - turns[USED_AT_S][family] > RECENT_S:
        turns[BEGAN_S][family] = now_s
    kept = math.exp((turns[USED_AT_S][family] - now_s) / USE_S)
    turns[USED_SERVERS][family] = turns[USED_SERVERS][family] * kept + run_s / USE_S
    if run_s == 0 and turns[USED_AT_S][family] == now_s:  # of those that are refused together any may come first
        allowed_s = min(allowed_s, turns[ALLOWED_S][family])
    turns[USED_AT_S][family] = now_s
    turns[ALLOWED_S][family] = allowed_s


class FairShare(NamedTuple):
    """What a family may do with the servers because of the others that use them.

    Attributes:
        share: The part of the servers' time that it can count on, above 0 and at most 1: its weight's part, or what
            others have lately left where that is more.
        has_more: Whether it has lately had more than its weight's part.
        longest_run_s: How long a batch of it may run, and then none may wait at a server; infinite: for any time.
    """

    share: float
    has_more: bool
    longest_run_s: float


def fair_share(turns: Turns, families: int, family: int, servers: float, now_s: float) -> FairShare:
    """Return how a family stands with the others on so many servers.

    Where no other has lately used any, all is its own. Else a family that had more than its share, or has more than
    ``PATIENT`` times the time of another, keeps its batches short.
    """
    others, others_used, own_used, least_allowed_s = 0.0, 0.0, 0.0, math.inf
    for each in range(families):
        idle_s = now_s - turns[USED_AT_S][each]
        # The average has not seen more than the time since the family began, and so would notice a flood late.
        seen = 1 - math.exp(-max(BRIEF_S, now_s - turns[BEGAN_S][each]) / USE_S)
        used = turns[USED_SERVERS][each] * math.exp(-idle_s / USE_S) / seen
        if each == family:
            own_used = used
        elif idle_s <= RECENT_S:
            others += turns[WEIGHT][each]
            others_used += used
            least_allowed_s = min(least_allowed_s, turns[ALLOWED_S][each])
    if others == 0:
        return FairShare(1.0, False, math.inf)
    weight_part = turns[WEIGHT][family] / (turns[WEIGHT][family] + others)
    has_more = own_used > servers * weight_part
    is_patient = turns[ALLOWED_S][family] > PATIENT * least_allowed_s
    longest_s = LONGEST_PART * least_allowed_s if has_more or is_patient else math.inf
    left = 1 - others_used / servers if servers > 0 else 0.0
    return FairShare(max(weight_part, left), has_more, longest_s)


_ALONE: Final = FairShare(1.0, False, math.inf)


class FamilyTurns:
    """The turns of a live router's families; ``weights`` are above 0, and 1 for families without one."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._places: dict[Family, int] = {}
        self._turns: list[list[float]] = [[] for _ in range(TURN_FIELDS)]
        self._clock_s = 0.0

    def weight(self, family: Family | None) -> float:
        """Return the weight of a family."""
        return self._weights.get(family or "", 1.0)

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Go on with other weights."""
        self._weights = weights
        for family, place in self._places.items():
            self._turns[WEIGHT][place] = self.weight(family)

    def leading(self, waiting: Collection[Family]) -> frozenset[Family]:
        """Return which of the families that wait now, at least one, have had so much that others go first."""
        for family in waiting:
            self._place(family)
        for family, place in self._places.items():
            self._turns[WAITS][place] = family in waiting
        self._clock_s = mark_leading(self._turns, len(self._places), self._clock_s)
        return frozenset(family for family in waiting if self._turns[LEADS][self._places[family]])

    def charge(self, family: Family, run_s: float, allowed_s: float, *, now_s: float) -> None:
        """Count a batch that was sent, see ``charge``."""
        charge(self._turns, self._place(family), run_s, allowed_s, now_s)

    def fair_share(self, family: Family, servers: int, *, now_s: float) -> FairShare:
        """Return how a family stands with the others, see ``fair_share``."""
        place = self._places.get(family)
        if place is None or len(self._places) < 2:
            return _ALONE
        return fair_share(self._turns, len(self._places), place, servers, now_s)

    def _place(self, family: Family) -> int:
        place = self._places.get(family)
        if place is None:
            place = self._places[family] = len(self._places)
            for field, value in zip(self._turns, new_turns(self.weight(family)), strict=True):
                field.append(value)
        return place
