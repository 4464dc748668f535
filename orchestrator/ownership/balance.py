"""When a server goes from a gateway with little to do to one with much.

Hashing evens out capacity, not callers: one gateway may have most of them. What tells is the backlog in seconds, all
that waits or runs divided by what the gateway's servers do in a second. A server of the gateway with the shortest goes
to one whose backlog is longer by more than ``APART_S``: the server that leaves the longer of both shortest, and none
where that would be no shorter; and only when all this has been so of that taker for ``PATIENCE_S`` without a break. As
time starts anew after each move, servers move at most once in ``PATIENCE_S``, and a burst that is over before moves
none.

Backlogs alone move too much. Close to what servers can do, those of two gateways with as many callers are apart for
seconds by chance; a server that moves for that leaves its old driver with too little, and comes back. On four slow
Tritons two gateways so lost 1 to 2 % at nine tenths of their capacity. So a server moves only where callers are uneven
as well: where the larger of both demands over capacities becomes smaller, too. Demands are what callers have sent
lately, refused or not, and wherever it was answered. All is told in items of the quickest width, as capacities are; so
callers who insist on wide answers count for what those take.

No gateway gives its last server, so nobody becomes dependent on others because it had nothing to do for a second. The
shortest backlog is therefore that of a gateway with two servers or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.ownership.rendezvous import GatewayName
from orchestrator.snapshot import ServerName

PATIENCE_S = 1.0
"""Time for which a move must help: many times what a batch takes."""
APART_S = 0.05
"""Difference of backlogs that counts: half of the default deadline, within which narrower widths help sooner."""


@dataclass(frozen=True, slots=True)
class GatewayLoad:
    """What one gateway has to do, and with what.

    Attributes:
        backlog_items: Items that wait there or run on its servers, 0 or more.
        demand_rps: Items a second that its callers have sent lately, 0 or more.
        capacities_rps: The servers that it drives, each with its items a second, above 0.
    """

    backlog_items: float
    demand_rps: float
    capacities_rps: Mapping[ServerName, float]

    @property
    def backlog_s(self) -> float:
        """How long its servers take for its backlog; infinite for one that has work and no server."""
        return _over(self.backlog_items, sum(self.capacities_rps.values()))


class Move(NamedTuple):
    """A server that goes from its driver to another gateway."""

    server: ServerName
    giver: GatewayName
    taker: GatewayName


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Since when a server would have helped a gateway, in seconds on the caller's clock; others are left out."""

    since_s: Mapping[GatewayName, float] = field(default_factory=dict)


def plan_move(
    loads: Mapping[GatewayName, GatewayLoad], state: Imbalance, *, now_s: float
) -> tuple[Move | None, Imbalance]:
    """Return the server that has to move now, None for none, and what to pass in the next time.

    Of equal gateways the first by name counts, of equal servers likewise; so all who see the same loads agree.
    """
    names = sorted(loads)
    givers = [name for name in names if len(loads[name].capacities_rps) > 1]
    if not givers:
        return None, Imbalance()
    giver = min(givers, key=lambda name: loads[name].backlog_s)
    behind = [name for name in names if loads[name].backlog_s - loads[giver].backlog_s > APART_S]
    gifts = {name: _best_gift(loads[giver], loads[name]) for name in behind}
    helped = {name: server for name, server in gifts.items() if server is not None}
    since_s = {name: state.since_s.get(name, now_s) for name in helped}
    takers = [name for name in helped if now_s - since_s[name] >= PATIENCE_S]
    if not takers:
        return None, Imbalance(since_s)
    taker = max(takers, key=lambda name: loads[name].backlog_s)
    return Move(helped[taker], giver, taker), Imbalance()


def _best_gift(giver: GatewayLoad, taker: GatewayLoad) -> ServerName | None:
    """Return the server whose move leaves the longer of both backlogs shortest.

    None where none makes it shorter, or the larger of both demands over capacities smaller.
    """
    has_rps, needs_rps = sum(giver.capacities_rps.values()), sum(taker.capacities_rps.values())
    best, best_s = None, taker.backlog_s
    for server, capacity_rps in sorted(giver.capacities_rps.items()):
        left_rps, gets_rps = max(0.0, has_rps - capacity_rps), needs_rps + capacity_rps
        load = max(_over(giver.demand_rps, left_rps), _over(taker.demand_rps, gets_rps))
        longer_s = max(_over(giver.backlog_items, left_rps), _over(taker.backlog_items, gets_rps))
        if longer_s < best_s and load < _over(taker.demand_rps, needs_rps):
            best, best_s = server, longer_s
    return best


def _over(amount: float, capacity_rps: float) -> float:
    if amount <= 0:
        return 0.0
    return amount / capacity_rps if capacity_rps > 0 else math.inf
