"""The most that any policy could have made of a few requests, had it known when they would come.

On a window of some dozens of requests and two or three servers that start empty, whoever knows all arrivals chooses
which batches run where, when and at which width. What it earns is the sum over requests in time of their accuracy,
less an exchange rate times the joules that batches add; a request that is left out or late earns nothing. This is
SuperServe's ZILP, with energy (our implementation), solved by scipy's HiGHS.

Time is cut into steps, and z = 1 says that a batch of b at width w starts on server s at step t. A server runs one
batch at a time: every step is covered by at most one of its batches. Which requests are in a batch need not be asked:
one that starts at t and ends at e can take those that have arrived by t and are not due before e, and as all have the
same time to their deadline these are an interval of the arrivals. By Hall's theorem for intervals requests can be dealt
out when, for all i ≤ j, the batches whose interval lies within i … j take at most j − i + 1. So the constraints are few
and the linear relaxation is tight.

Times are rounded in the policy's favour (arrivals and durations down, deadlines up), so the optimum is a bound for
every policy; where all times are multiples of the step it is exact. Noise, faults and late reports are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import check_extra
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer

Steps = NDArray[np.int64]
_MOST_REQUESTS: Final = 60
_MOST_SERVERS: Final = 3
_MOST_CHOICES: Final = 60_000
_NODES: Final = 2000
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Planned:
    """One batch of a plan: from one step to the step after its last, with what it earns."""

    server: int
    width: int
    items: int
    start: int
    end: int
    worth: float


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """The most that any policy can earn, and the plan, by start, that comes nearest to it.

    What the plan earns is below the most when the search was cut short.
    """

    most: float
    earned: float
    plan: tuple[Planned, ...]


def plan_window(
    servers: Sequence[SimulatedServer],
    arrived_s: Sequence[float],
    deadline_s: float,
    *,
    exchange: float,
    step_s: float,
    gap: float = 0.005,
) -> Clairvoyant:
    """Return what a clairvoyant earns of at most 60 requests of one item each, on at most three servers.

    Args:
        servers: with one instance of each width.
        arrived_s: ascending.
        deadline_s: of each, from its arrival.
        exchange: accuracy that a joule costs; 0 where joules are unknown or do not count.
        step_s: at most the shortest batch.
        gap: between the bound and the plan, relative, at which the search ends; the bound holds wherever it does.

    Raises:
        ConfigError: when the window or the fleet is too large or a width has several instances, or scipy is missing.
    """
    _check(servers, arrived_s, step_s)
    # A bound needs only batches that can be in time for some request.
    first = np.array([_down(a, step_s) for a in arrived_s])
    due = np.array([_up(a + deadline_s, step_s) for a in arrived_s])
    choices = [
        choice
        for at, server in enumerate(servers)
        for model in server.models
        for choice in _choices(at, model, first, due, exchange=exchange, step_s=step_s)
    ]
    if len(choices) > _MOST_CHOICES:
        raise ConfigError(
            f"the window has {len(choices)} possible batches, above the limit of {_MOST_CHOICES}; "
            "take fewer requests or longer steps"
        )
    if not choices:
        return Clairvoyant(0.0, 0.0, ())
    return _solve(choices, first, due, {"mip_rel_gap": gap, "node_limit": _NODES})


def _check(servers: Sequence[SimulatedServer], arrived_s: Sequence[float], step_s: float) -> None:
    if not 1 <= len(servers) <= _MOST_SERVERS:
        raise ConfigError(f"a clairvoyant plans for 1 to {_MOST_SERVERS} servers, not {len(servers)}")
    if not 1 <= len(arrived_s) <= _MOST_REQUESTS:
        raise ConfigError(f"a clairvoyant plans for 1 to {_MOST_REQUESTS} requests, not {len(arrived_s)}")
    for server in servers:
        if server.limits is not None:
            raise ConfigError(
                f"server {server.name} has a controller; a clairvoyant plans for fleets that stay as they are"
            )
        for model in server.models:
            if model.instances != 1:
                raise ConfigError(
                    f"server {server.name} has {model.instances} instances of width {model.width}; "
                    "a clairvoyant plans for one of each"
                )
            if step_s <= 0 or min(model.service_s) < step_s * (1 - _ROUNDING):
                raise ConfigError(
                    f"a step of {step_s:g} s must be above 0 and at most the shortest batch, {min(model.service_s):g} s"
                )


def _choices(
    server: int, model: SimulatedModel, first: Steps, due: Steps, *, exchange: float, step_s: float
) -> list[Planned]:
    found = []
    for items in range(1, min(model.max_batch_size, len(first)) + 1):
        worth = items * model.accuracy
        if exchange and model.energy_j is not None:
            worth -= exchange * model.energy_j[items - 1]
        steps = _down(model.service_s[items - 1], step_s)
        if worth <= 0:
            continue
        for start in range(int(first[0]), int(due[-1]) - steps + 1):
            low, high = _reach(first, due, start, start + steps)
            if high - low >= items:
                found.append(Planned(server, int(model.width), items, start, start + steps, worth))
    return found


def _reach(first: Steps, due: Steps, start: int, end: int) -> tuple[int, int]:
    """Return which requests a batch can take, as a half-open interval of their order."""
    return int(np.searchsorted(due, end)), int(np.searchsorted(first, start, side="right"))


def _solve(choices: Sequence[Planned], first: Steps, due: Steps, options: Mapping[str, float]) -> Clairvoyant:
    check_extra("the clairvoyant", "sim", "scipy")
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    rows: list[int] = []
    columns: list[int] = []
    row_of: dict[tuple[int, int], int] = {}
    for column, choice in enumerate(choices):
        for step in range(choice.start, choice.end):
            rows.append(row_of.setdefault((choice.server, step), len(row_of)))
            columns.append(column)
    values, limits = [1.0] * len(rows), [1.0] * len(row_of)
    reach = np.array([_reach(first, due, choice.start, choice.end) for choice in choices])
    items = np.array([choice.items for choice in choices])
    count = len(first)
    for low in sorted({int(r) for r in reach[:, 0]}):
        for high in sorted({int(r) for r in reach[:, 1]}):
            inside = np.flatnonzero((reach[:, 0] >= low) & (reach[:, 1] <= high))
            if high > low and items[inside].sum() > high - low:
                rows += [len(limits)] * len(inside)
                columns += inside.tolist()
                values += items[inside].tolist()
                limits.append(float(min(high - low, count)))
    matrix = csr_array((values, (rows, columns)), shape=(len(limits), len(choices)))
    worth = np.array([choice.worth for choice in choices])
    solved = milp(
        -worth,
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, ub=np.array(limits)),
        options=dict(options),
    )
    if solved.x is None:  # stopped before any plan was found
        return Clairvoyant(-float(solved.mip_dual_bound), 0.0, ())
    taken = [choice for choice, x in zip(choices, solved.x, strict=True) if x > 0.5]
    plan = tuple(sorted(taken, key=lambda c: (c.start, c.server)))
    earned = sum(choice.worth for choice in plan)
    return Clairvoyant(max(earned, -float(solved.mip_dual_bound)), earned, plan)


def _down(time_s: float, step_s: float) -> int:
    return math.floor(time_s / step_s + _ROUNDING)


def _up(time_s: float, step_s: float) -> int:
    return math.ceil(time_s / step_s - _ROUNDING)
