"""Thrift: accuracy at a price in joules (our own rule, no paper's).

The fluid optimum of accuracy under a budget of joules gives each server the width at which

    position of the accuracy  −  price · joules an item  −  what the server's time is worth

is largest, with one price for the whole fleet (the multiplier of the budget). So machines that need few joules an item
run wide and the others narrow, where a rule that picks one width for all pays the dearest machine's price for it. What
a server's time is worth is left to deadlines: only (server, width) that are in time for the head, at a width at which
the queue would drain in a ``reserve``-th of its time, are weighed, as in ``lert:reserve``; where none is, the queue is
drained.

    score = (a − a₀)/(a₁ − a₀)  −  energy · e/ē  −  latency · m·t/slack

with a₀ and a₁ the least and the most accuracy of all candidates, e the expected joules an item of the group and ē those
of full batches at the widest width, on average over servers, t the expected completion and m the margin. Unknown joules
count as ē. A better server that is busy is waited for when it is better by more than ``patience``: waiting leaves
others idle. A request's own preference takes the place of the knobs, with the same meaning relative to its accuracy
weight.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.routing.compiled import Column, Table, compiled
from orchestrator.routing.fields import (
    HEAD_DEADLINE_S,
    NOW_S,
    PREFER_ACCURACY,
    PREFER_ENERGY,
    PREFER_LATENCY,
    ROW_ACCURACY,
    ROW_COMPLETION_S,
    ROW_GROUP_J,
    ROW_HAS_ROOM,
    ROW_ITEM_J,
    ROW_ITEMS,
    ROW_MAX_BATCH,
    ROW_WIDTH,
    SLACK_MARGIN,
)
from orchestrator.routing.knobs import Knob, knob
from orchestrator.routing.width_rules import is_timely, nearest_width

_ENERGY: Final = 0
_LATENCY: Final = 1
_PATIENCE: Final = 2
_RESERVE: Final = 3
KNOBS: Final = (
    Knob("energy", _ENERGY, 0.2, 0.0, 10.0),
    Knob("latency", _LATENCY, 0.1, 0.0, 10.0),
    Knob("patience", _PATIENCE, 0.3, 0.0, 10.0),
    Knob("reserve", _RESERVE, 2.0, 1.0, 10.0, is_log=True),
)
_LEAST_WEIGHT: Final = 0.02  # of accuracy, else the others' would be without bound
_HASTE: Final = 0.3  # of a preference's latency, which deadlines serve already


@compiled
def choose_thrifty(rule: Column, rows: Table, count: int, ask: Column) -> tuple[int, bool]:
    """Return the row with room that scores best, -1 to wait or for none, and whether any at all is in time."""
    energy, latency = _weights(rule, ask)
    least, most, reference_j = _scales(rows, count)
    slack_s = max(1e-9, ask[HEAD_DEADLINE_S] - ask[NOW_S])
    factor = max(knob(rule, _RESERVE), ask[SLACK_MARGIN])
    best, chosen, best_score, chosen_score = -1, -1, -math.inf, -math.inf
    for row in range(count):
        if not is_timely(row, factor, rows, ask):
            continue
        joules = rows[ROW_ITEM_J][row] + rows[ROW_GROUP_J][row] / rows[ROW_ITEMS][row]
        ratio = joules / reference_j if reference_j > 0 and not math.isnan(joules) else 1.0
        position = (rows[ROW_ACCURACY][row] - least) / (most - least) if most > least else 0.0
        score = position - energy * ratio - latency * ask[SLACK_MARGIN] * rows[ROW_COMPLETION_S][row] / slack_s
        if score > best_score:
            best, best_score = row, score
        if rows[ROW_HAS_ROOM][row] != 0 and score > chosen_score:
            chosen, chosen_score = row, score
    if chosen >= 0 and best_score - chosen_score > knob(rule, _PATIENCE):
        chosen = -1
    return chosen, best >= 0


@compiled
def _weights(rule: Column, ask: Column) -> tuple[float, float]:
    if math.isnan(ask[PREFER_ACCURACY]):
        return knob(rule, _ENERGY), knob(rule, _LATENCY)
    accuracy = max(_LEAST_WEIGHT, ask[PREFER_ACCURACY])
    return ask[PREFER_ENERGY] / accuracy, _HASTE * ask[PREFER_LATENCY] / accuracy


@compiled
def _scales(rows: Table, count: int) -> tuple[float, float, float]:
    """Return the least and the most accuracy, and joules an item in full batches at the widest; 0 while unknown."""
    least, most, total_j, known = math.inf, -math.inf, 0.0, 0
    widest = nearest_width(math.inf, rows, count)
    for row in range(count):
        least, most = min(least, rows[ROW_ACCURACY][row]), max(most, rows[ROW_ACCURACY][row])
        joules = rows[ROW_ITEM_J][row] + rows[ROW_GROUP_J][row] / rows[ROW_MAX_BATCH][row]
        if rows[ROW_WIDTH][row] == widest and not math.isnan(joules):
            total_j += joules
            known += 1
    return least, most, total_j / known if known > 0 else 0.0
