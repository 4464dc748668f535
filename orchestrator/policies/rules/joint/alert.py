"""ALERT: one slow-down factor for all that is expected, followed by a Kalman filter (our implementation).

Wan et al., ATC'20: the environment slows all models alike by a factor ξ, whose mean and variance follow from each
measurement over what the profile expects; each (model, setting) is then predicted as ξ·τ, and the most accurate that is
in time is run, or the one that needs the least energy for a given accuracy. So one measurement at one width corrects
all widths at once, where a fit for each would need a batch of each.

Filter (constants ours): process noise Q grows with surprise, gain K = (P + Q)/(P + Q + R), ξ ← ξ + K(z − ξ),
P ← (1 − K)(P + Q). In time means (ξ + ``sigmas``·√P)·t ≤ slack for the expected completion t. ``goal=0`` asks for
accuracy, ``goal=1`` for energy; what has no known energy is then the dearest. ALERT has one machine and one input at
a time; on a fleet ours asks for the best (server, width) with room, waits where only a busy one is in time and, where
none is, drains the queue as ``lert:slack`` does.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import REASONS
from orchestrator.policies.tables.memory import WHOLE

_SIGMAS: Final = 0
_GOAL: Final = 1
KNOBS: Final = (Knob("sigmas", _SIGMAS, 1.0, 0.0, 10.0), Knob("goal", _GOAL, 0.0, 0.0, 1.0))

_MEASURED: Final = 1  # slots of row WHOLE
_MEAN: Final = 2
_VARIANCE: Final = 3
_PROCESS: Final = 4  # Q

_FIRST_VARIANCE: Final = 0.1
_LEAST_PROCESS: Final = 1e-3
_MEASUREMENT: Final = 1e-2  # R
_SMOOTHING: Final = 0.3

MOST_ACCURATE: Final = REASONS.index(Reason.MOST_ACCURATE)
LEAST_ENERGY: Final = REASONS.index(Reason.LEAST_ENERGY)


@compiled
def slow_down(memory: Table) -> tuple[float, float]:
    """Return the mean and the variance of ξ."""
    whole = memory[WHOLE]
    return (1.0, _FIRST_VARIANCE) if whole[_MEASURED] == 0 else (whole[_MEAN], whole[_VARIANCE])


@compiled
def choose_predicted(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> tuple[int, bool]:
    """Return the row with room that suits the goal best, -1 for none, and whether any at all is in time."""
    mean, variance = slow_down(memory)
    factor = mean + knob(rule, _SIGMAS) * math.sqrt(variance)
    slack_s, saves_energy = query[col.HEAD_DEADLINE_S] - query[col.NOW_S], knob(rule, _GOAL) > 0.5
    best, is_any_in_time = -1, False
    for row in range(count):
        if rows[col.ROW_COMPLETION_S][row] * factor > slack_s:
            continue
        is_any_in_time = True
        if rows[col.ROW_HAS_ROOM][row] != 0 and (best < 0 or _is_better(saves_energy, row, best, rows)):
            best = row
    return best, is_any_in_time


@compiled
def reason_of_goal(rule: Column) -> int:
    """Return the code of the reason of a choice."""
    return LEAST_ENERGY if knob(rule, _GOAL) > 0.5 else MOST_ACCURATE


@compiled
def _is_better(saves_energy: bool, row: int, best: int, rows: Table) -> bool:
    own_j, best_j = _per_item_j(row, rows), _per_item_j(best, rows)
    width, best_width = rows[col.ROW_WIDTH][row], rows[col.ROW_WIDTH][best]
    if saves_energy and own_j != best_j:
        return own_j < best_j
    if width != best_width:
        return width > best_width
    if own_j != best_j:
        return own_j < best_j
    return rows[col.ROW_COMPLETION_S][row] < rows[col.ROW_COMPLETION_S][best]


@compiled
def _per_item_j(row: int, rows: Table) -> float:
    """Return the joules an item of a row's batch; infinite while unknown."""
    joules = rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_ITEMS][row]
    return math.inf if math.isnan(joules) else joules


@compiled
def follow_slow_down(memory: Table, expected_s: float, took_s: float) -> None:
    """Take a measurement into the filter."""
    if expected_s <= 0:
        return
    whole = memory[WHOLE]
    mean, variance = slow_down(memory)
    process = _FIRST_VARIANCE if whole[_MEASURED] == 0 else whole[_PROCESS]
    surprise = took_s / expected_s - mean
    gain = (variance + process) / (variance + process + _MEASUREMENT)
    whole[_MEAN] = max(1e-3, mean + gain * surprise)
    whole[_VARIANCE] = (1 - gain) * (variance + process)
    corrected = gain * surprise
    whole[_PROCESS] = max(_LEAST_PROCESS, (1 - _SMOOTHING) * process + _SMOOTHING * corrected * corrected)
    whole[_MEASURED] += 1
