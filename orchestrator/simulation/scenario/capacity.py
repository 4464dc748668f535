"""How much a fleet can serve, as if work were a fluid: the scale for loads, and a bound for every policy.

With f_sw items a second on server s at width w and its capacity c_sw there, a server is not more than busy when
Σ_w f_sw / c_sw ≤ 1. Of instances that hinder each other c_sw is what they do together, all of them all the time. The
most items a second are served at each server's quickest width. At a given rate the most accuracy is the linear
programme max Σ a_w f_sw with Σ f = rate, solved by scipy's HiGHS; no policy can serve more accurately without falling
behind, because waiting and uneven work only cost. Likewise for joules, with those of an item in the batch that is
thriftiest, whatever batch gives the capacity; and for accuracy less the price of joules, which is linear in the flows
too. Of several families each has its share of the rate, and flows of its own widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import check_extra
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer
from orchestrator.snapshot import Family

Shares = Mapping[Family, float]
"""The part of all requests that is each family's; they add up to 1."""


def capacity_rps(
    servers: Sequence[SimulatedServer],
    *,
    width: int | None = None,
    min_accuracy: float = 0.0,
    shares: Shares | None = None,
) -> float:
    """Return the most items a second that the fleet serves, at one width or at the quickest.

    Raises:
        ConfigError: when no server serves what is asked for, or of several families scipy is not installed.
    """
    if shares is None or len(shares) == 1:
        total_rps = sum(
            max((m.capacity_rps for m in _usable(server, min_accuracy) if width in (None, m.width)), default=0.0)
            for server in servers
        )
    else:
        cells = [(s, m) for s, m in _cells(servers, min_accuracy) if width in (None, m.width)]
        total_rps = _most_of_all(servers, cells, shares)
    if total_rps == 0:
        served = sorted({m.width for s in servers for m in s.models})
        asked = "a width of every family" if width is None else f"width {width}"
        raise ConfigError(
            f"no server serves {asked} with an accuracy of {min_accuracy:g} or more; there are widths {served}"
        )
    return total_rps


def _most_of_all(
    servers: Sequence[SimulatedServer], cells: Sequence[tuple[int, SimulatedModel]], shares: Shares
) -> float:
    """Return the most items a second of which each family has its share; 0 when one of them is not served."""
    if {m.family for _, m in cells} < set(shares):
        return 0.0
    load, of_family = _constraints(servers, cells, shares)
    # The rate is one more variable: what of a family flows is its share of that.
    equal = np.hstack([of_family, -np.array([list(shares.values())]).T])
    upper = np.hstack([load, np.zeros((len(servers), 1))])
    cost = np.append(np.zeros(len(cells)), -1.0)
    return -float(_linprog()(cost, A_ub=upper, b_ub=np.ones(len(servers)), A_eq=equal, b_eq=np.zeros(len(shares))).fun)


def most_accuracy(
    servers: Sequence[SimulatedServer], rate_rps: float, *, min_accuracy: float = 0.0, shares: Shares | None = None
) -> float | None:
    """Return the most mean accuracy at which the fleet serves ``rate_rps`` for good; None when it can't at all.

    Raises:
        ConfigError: when scipy is not installed.
    """
    cells = _cells(servers, min_accuracy)
    least = _least(servers, cells, [-m.accuracy for _, m in cells], rate_rps, shares)
    return None if least is None else -least / rate_rps


def least_joules(
    servers: Sequence[SimulatedServer], rate_rps: float, accuracy: float, *, shares: Shares | None = None
) -> float | None:
    """Return the least joules an item, idle power included, at which the fleet serves ``rate_rps`` for good.

    The mean accuracy of answers is at least ``accuracy``. None: the fleet can't, or joules of a server are unknown.

    Raises:
        ConfigError: when scipy is not installed.
    """
    cells = _cells(servers, 0.0)
    known = _known_joules(servers, cells)
    if known is None:
        return None
    per_item_j, idle_w = known
    least_w = _least(servers, cells, per_item_j, rate_rps, shares, accuracy=accuracy)
    return None if least_w is None else (least_w + idle_w) / rate_rps


def most_utility(
    servers: Sequence[SimulatedServer],
    rate_rps: float,
    *,
    price: float,
    min_accuracy: float = 0.0,
    shares: Shares | None = None,
) -> float | None:
    """Return the most of mean accuracy less the price of an item's joules, idle power included, were all in time.

    The price is the accuracy that a joule costs; 0 where joules are unknown or do not count. None: the fleet can't
    serve ``rate_rps`` items a second for good, or joules that count are unknown.

    Raises:
        ConfigError: when scipy is not installed.
    """
    cells = _cells(servers, min_accuracy)
    known = _known_joules(servers, cells) if price else ([0.0] * len(cells), 0.0)
    if known is None:
        return None
    per_item_j, idle_w = known
    cost = [price * j - m.accuracy for j, (_, m) in zip(per_item_j, cells, strict=True)]
    least = _least(servers, cells, cost, rate_rps, shares)
    return None if least is None else -(least + price * idle_w) / rate_rps


def _known_joules(
    servers: Sequence[SimulatedServer], cells: Sequence[tuple[int, SimulatedModel]]
) -> tuple[list[float], float] | None:
    """Return the joules of an item in each cell's thriftiest batch and the idle watts of all; None while unknown."""
    per_item_j = [math.inf if m.energy_j is None else min(e / n for n, e in enumerate(m.energy_j, 1)) for _, m in cells]
    idle_w = sum(math.inf if s.idle_w is None else s.idle_w for s in servers)
    return (per_item_j, idle_w) if all(map(math.isfinite, (*per_item_j, idle_w))) else None


def _cells(servers: Sequence[SimulatedServer], min_accuracy: float) -> list[tuple[int, SimulatedModel]]:
    return [(s, m) for s, server in enumerate(servers) for m in _usable(server, min_accuracy)]


def _least(
    servers: Sequence[SimulatedServer],
    cells: Sequence[tuple[int, SimulatedModel]],
    cost: Sequence[float],
    rate_rps: float,
    shares: Shares | None,
    *,
    accuracy: float | None = None,
) -> float | None:
    """Return the least cost of flows that add up to a rate with no server more than busy; None when there are none."""
    linprog = _linprog()
    if not cells:
        return None
    shares = shares or {cells[0][1].family: 1.0}
    load, of_family = _constraints(servers, cells, shares)
    limits = [1.0] * len(servers)
    if accuracy is not None:
        load = np.vstack([load, [-m.accuracy / rate_rps for _, m in cells]])
        limits.append(-accuracy)
    flows_rps = [share * rate_rps for share in shares.values()]
    solved = linprog(cost, A_ub=load, b_ub=limits, A_eq=of_family, b_eq=flows_rps, method="highs")
    return float(solved.fun) if solved.success else None


def _constraints(
    servers: Sequence[SimulatedServer], cells: Sequence[tuple[int, SimulatedModel]], shares: Shares
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how busy an item a second of each cell keeps each server, and which cells are of each family."""
    load = np.zeros((len(servers), len(cells)))
    for cell, (server, model) in enumerate(cells):
        load[server, cell] = 1 / model.capacity_rps
    return load, np.array([[float(model.family == family) for _, model in cells] for family in shares])


def _linprog() -> Any:
    check_extra("the fluid bound", "sim", "scipy")
    from scipy.optimize import linprog

    return linprog


def _usable(server: SimulatedServer, min_accuracy: float) -> list[SimulatedModel]:
    """Return the models that may be used, their batches as slow as instances make them that hinder each other."""
    running = (m for m in server.models if m.accuracy >= min_accuracy and m.instances > 0)
    return [m.slowed(server.slow_down(m.instances)) for m in running]
