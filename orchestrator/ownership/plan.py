"""The plan of who drives what, which one gateway makes for all that it knows: the first of them by name.

Everybody could compute it, but from capacities that each has measured by itself and seen at another moment, and two
that differ a little would both drive a server, or neither. So those who plan nothing follow the first. It needs no
vote: when it dies, the next one is the first, and starts from the hash, as all plans do. While views differ there may
be two plans; then the record beside each server decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.ownership.balance import GatewayLoad, Imbalance, plan_move
from orchestrator.ownership.rendezvous import GatewayName, assign
from orchestrator.snapshot import ServerName


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is to drive each server.

    Attributes:
        gateways: Those that it is for.
        drivers: One of them for each server.
        imbalance: Since when their backlogs differ.
    """

    gateways: frozenset[GatewayName]
    drivers: Mapping[ServerName, GatewayName]
    imbalance: Imbalance


NOTHING: Final = Plan(frozenset(), {}, Imbalance())
"""The plan of nobody, to begin with."""


def plan_drivers(
    plan: Plan,
    loads: Mapping[GatewayName, GatewayLoad],
    capacities_rps: Mapping[ServerName, float],
    *,
    now_s: float,
) -> Plan:
    """Return the next plan: the hash's when gateways or servers have come or gone, else with a move or as it was.

    Args:
        plan: The last one; ``NOTHING`` at first.
        loads: What each gateway has to do, and which servers it drives now. While that is not what the plan says,
            nothing moves.
        capacities_rps: The items a second of each server, above 0.
        now_s: Seconds on a clock that never goes back.
    """
    if loads.keys() != plan.gateways or capacities_rps.keys() != plan.drivers.keys():
        return Plan(frozenset(loads), assign(capacities_rps, loads), Imbalance())
    driven = {server: gateway for gateway, load in loads.items() for server in load.capacities_rps}
    if driven != plan.drivers:
        return replace(plan, imbalance=Imbalance())
    move, imbalance = plan_move(loads, plan.imbalance, now_s=now_s)
    drivers = plan.drivers if move is None else {**plan.drivers, move.server: move.taker}
    return replace(plan, drivers=drivers, imbalance=imbalance)
