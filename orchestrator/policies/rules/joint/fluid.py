"""A plan by rates: which share of the demand each (server, width) gets, so that accuracy is highest.

With capacities c_sw, accuracies a_w and a demand λ, the linear program

    max Σ a_w·f_sw   subject to   Σ f_sw = λ(1 + margin),   Σ_w f_sw/c_sw ≤ load for every server,   f ≥ 0

says at which rates f to run what, were work a fluid. Where the demand is more than fits, as much as fits is served. It
is the relaxed form of Proteus' mixed-integer program (Ahmad et al., ASPLOS'24): a slimmable server runs any width at
any time, so nothing has to be whole. Requests are then drawn by these shares, on arrival.

- ``fluid-lp`` takes the capacity of full batches, and so a bound that no policy can pass.
- ``proteus-lp`` plans as Proteus does: c is that of the largest batch that fits twice into the deadline, demand is an
  EWMA to which 5 % are added, and the plan is made anew every 10 s.

The program needs no solver. With x_sw = f_sw/c_sw each server divides its time among (c_sw, a_w·c_sw), so it runs on
the upper hull of these points and of (0, 0), and demand is given to the steepest piece of hull that is left, anywhere:
the greedy solution of the relaxed multiple-choice knapsack (Sinha and Zoltners, Operations Research 27(3), 1979). So
it runs inside the compiled loop and where there is no scipy; a test holds it against HiGHS. Pieces of the same
steepness are filled alike, or one of two like servers would get all.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.batch_rules import largest_batch_within, objective_s
from orchestrator.policies.rules.demand import FREE_SLOT, RATE_RPS, follow_demand
from orchestrator.policies.rules.server_rules import least_completion
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import REASONS, Choice
from orchestrator.policies.tables.memory import (
    OF_MODEL,
    OF_MODEL_TOO,
    OF_SERVER,
    OF_SERVER_TOO,
    WHOLE,
    model_place,
    server_place,
)

_INTERVAL_S: Final = 0
_MARGIN: Final = 1
_LOAD: Final = 2
KNOBS: Final = (
    Knob("interval_s", _INTERVAL_S, 10.0, 0.1, 600.0, is_log=True),
    Knob("margin", _MARGIN, 0.05, 0.0, 2.0),
    Knob("load", _LOAD, 1.0, 0.1, 1.0),
)
_PLANNED: Final = FREE_SLOT  # slot of row WHOLE: 1 once there is a plan

_SHARE: Final = OF_MODEL  # items a second
_CAPACITY: Final = OF_MODEL_TOO
_STEEPNESS: Final = OF_SERVER  # of the piece that a server would be filled with next
_NEXT_ROW: Final = OF_SERVER_TOO  # where that piece ends; -1 when there is none

_PLANNED_SHARE: Final = REASONS.index(Reason.PLANNED_SHARE)
_SAME: Final = 1e-12


@compiled
def choose_by_plan(is_halved: bool, rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision: a row drawn by its share of the plan; halved, batches fit twice into a deadline."""
    if follow_demand(knob(rule, _INTERVAL_S), memory, query) or memory[WHOLE][_PLANNED] == 0:
        within_s = objective_s(query) / 2 if is_halved else math.inf
        write_capacities(within_s, knob(rule, _LOAD), memory, rows, count)
        fill(memory[WHOLE][RATE_RPS] * (1 + knob(rule, _MARGIN)), memory, rows, count)
        memory[WHOLE][_PLANNED] = 1.0
    row = _drawn(memory, rows, count, query)
    return row, rows[col.ROW_ITEMS][row], _PLANNED_SHARE, math.inf


@compiled
def _drawn(memory: Table, rows: Table, count: int, query: Column) -> int:
    total = 0.0
    for row in range(count):
        total += memory[_SHARE][model_place(memory, row, rows)]
    if total == 0:  # the plan is of others than are allowed here
        return least_completion(nearest_width(math.inf, rows, count), 0.0, rows, count, query)
    end, last = 0.0, 0
    for row in range(count):
        share = memory[_SHARE][model_place(memory, row, rows)]
        if share > 0:
            end += share
            last = row
            if query[col.SECOND_UNIFORM] * total < end:
                break
    return last


@compiled
def write_capacities(within_s: float, load: float, memory: Table, rows: Table, count: int) -> None:
    """Write what each row can serve in items a second, in batches that take at most ``within_s``."""
    for row in range(count):
        batch = rows[col.ROW_MAX_BATCH][row]
        if within_s < math.inf:
            batch = largest_batch_within(within_s, row, rows)
        service_s = max(1e-9, rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row])
        memory[_CAPACITY][model_place(memory, row, rows)] = load * rows[col.ROW_INSTANCES][row] * batch / service_s


@compiled
def fill(demand_rps: float, memory: Table, rows: Table, count: int) -> None:
    """Write the rates of the plan; of no demand at all the shares that the first of it would have."""
    left_rps = max(demand_rps, 1e-6)
    for row in range(count):
        memory[_SHARE][model_place(memory, row, rows)] = 0.0
    for row in range(count):
        if _is_first_of_server(row, rows):
            _find_piece(-1, row, memory, rows, count)
    while left_rps > 0:
        least = _steepest(memory, rows, count)
        if least == -math.inf:
            return
        gain_rps = 0.0
        for row in range(count):
            if _is_next(row, least, memory, rows):
                gain_rps += _gain_rps(row, memory, rows, count)
        part = min(1.0, left_rps / gain_rps)
        left_rps = left_rps - part * gain_rps if part == 1 else 0.0
        for row in range(count):
            if _is_next(row, least, memory, rows):
                _take_piece(row, part, memory, rows, count)


@compiled
def _steepest(memory: Table, rows: Table, count: int) -> float:
    """Return from which steepness on pieces are filled next; minus infinity when there are none."""
    steepest = -math.inf
    for row in range(count):
        if _is_next(row, -math.inf, memory, rows):
            steepest = max(steepest, memory[_STEEPNESS][server_place(memory, row, rows)])
    return steepest - _SAME * max(1.0, abs(steepest)) if steepest > -math.inf else steepest


@compiled
def _is_first_of_server(row: int, rows: Table) -> bool:
    return row == 0 or rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][row - 1]


@compiled
def _is_next(row: int, least: float, memory: Table, rows: Table) -> bool:
    """Return whether a server, by its first row, has a piece of at least that steepness."""
    if not _is_first_of_server(row, rows):
        return False
    place = server_place(memory, row, rows)
    return memory[_NEXT_ROW][place] >= 0 and memory[_STEEPNESS][place] >= least


@compiled
def _row_in_use(first: int, memory: Table, rows: Table, count: int) -> int:
    """Return the row that a server runs all the time so far; -1 when it is not filled at all."""
    for row in range(first, count):
        if rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][first]:
            break
        if memory[_SHARE][model_place(memory, row, rows)] > 0:
            return row
    return -1


@compiled
def _gain_rps(first: int, memory: Table, rows: Table, count: int) -> float:
    """Return by how much the next piece of a server raises what it serves."""
    used = _row_in_use(first, memory, rows, count)
    following = int(memory[_NEXT_ROW][server_place(memory, first, rows)])
    capacity = memory[_CAPACITY][model_place(memory, following, rows)]
    return capacity - memory[_CAPACITY][model_place(memory, used, rows)] if used >= 0 else capacity


@compiled
def _take_piece(first: int, part: float, memory: Table, rows: Table, count: int) -> None:
    """Move a part of a server's time from the row in use to the next, and find the piece after it."""
    used = _row_in_use(first, memory, rows, count)
    following = int(memory[_NEXT_ROW][server_place(memory, first, rows)])
    if used >= 0:
        place = model_place(memory, used, rows)
        memory[_SHARE][place] = (1 - part) * memory[_CAPACITY][place]
    place = model_place(memory, following, rows)
    memory[_SHARE][place] = part * memory[_CAPACITY][place]
    if part == 1:
        _find_piece(following, first, memory, rows, count)


@compiled
def _find_piece(used: int, first: int, memory: Table, rows: Table, count: int) -> None:
    """Write which row a server would be filled with next, and how steep that is; the most capacity of equals."""
    capacity, value = 0.0, 0.0
    if used >= 0:
        capacity = memory[_CAPACITY][model_place(memory, used, rows)]
        value = capacity * rows[col.ROW_ACCURACY][used]
    best, steepest, most = -1, -math.inf, 0.0
    for row in range(first, count):
        if rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][first]:
            break
        own = memory[_CAPACITY][model_place(memory, row, rows)]
        if own <= capacity:
            continue
        steepness = (own * rows[col.ROW_ACCURACY][row] - value) / (own - capacity)
        if steepness > steepest or (steepness == steepest and own > most):
            best, steepest, most = row, steepness, own
    place = server_place(memory, first, rows)
    memory[_NEXT_ROW][place] = best
    memory[_STEEPNESS][place] = steepest
