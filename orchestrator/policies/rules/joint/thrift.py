"""Thrift: accuracy at a price in joules, in batches worth waiting for (our own rule, no paper's).

The fluid optimum of accuracy under a budget of joules gives each server the width at which

    accuracy  −  price · joules an item  −  what the server's time is worth

is largest, with one price for the whole fleet (the multiplier of the budget). So machines that need few joules an item
run wide and the others narrow, where a rule that picks one width for all pays the dearest machine's price for it. What
a server's time is worth is left to deadlines: weighed are only (server, width) that are in time for the head, up to the
widest width at which the fleet would answer what waits in a ``reserve``-th of its time (policies.rules.drain), or in
less where other families have most of the servers; where none is, the queue is drained as is said there. Where requests
that can't be kept are refused, the queue is made short by that: the narrowest width counts always, and heads are
answered in time.

    score = (a − a₀)/(a₁ − a₀)  −  energy · e/ē  −  latency · m·t/slack

with a₀ and a₁ the least and the most accuracy of all candidates, e the expected joules an item of the batch and ē those
of full batches at the widest width, on average over servers, t the expected completion and m the margin. Unknown joules
count as ē. The price is a knob in accuracy: ``worth`` is what ē is worth, so energy = worth / (a₁ − a₀), and a family
whose widths are nearly as good as each other runs narrower than one in which width buys much. A request's own
preference takes the place of worth and latency, with the same meaning relative to its accuracy weight.

Two things are waited for. A better server that is busy, when it is better by more than ``patience`` and those that are
would by themselves answer all that waits in time: waiting leaves others idle, and whoever waits for the few most frugal
of many servers is late as soon as more comes than these can do. And a fuller batch, when it would make an item better
by more than ``fill``, because the launch of a batch is paid once:

    energy · (l/n − l/b′)/ē > fill,    b′ = n + (b − n)·(1 − u)

with l the joules of a launch, n the items there are and b those of a batch that fits ``reserve`` times into the
deadline; until the batch is full, or the head would have ``reserve`` times what that batch takes. u is what part of
such batches stayed unfilled of late, for a lone caller who waits for each answer fills none however long he is made to
wait: it is an average over the holds there were. Where less than half an item is expected nobody is held, but one batch
in some dozens to find out, because u is slowly forgotten.

``thrift:brownout`` weighs only what is below a ceiling that falls when requests are missed (policies.rules.brownout);
where that is at the narrowest width joules count no more, and whatever answers first is taken.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.batch_rules import LEAST_WAIT_S, largest_batch_within, objective_s
from orchestrator.policies.rules.brownout import SLOT_BEHIND
from orchestrator.policies.rules.drain import sendable_items, widest_draining
from orchestrator.policies.rules.width_rules import is_in_time
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import WHOLE

_WORTH: Final = 0
_LATENCY: Final = 1
_PATIENCE: Final = 2
_RESERVE: Final = 3
_FILL: Final = 4
_UNFILLED: Final = SLOT_BEHIND  # slots of row WHOLE of the memory
_HELD_ITEMS: Final = SLOT_BEHIND + 1  # that waited when the hold began; 0: nothing is held
_HELD_DEADLINE_S: Final = SLOT_BEHIND + 2  # of the head then
_LATEST: Final = 0.25  # what the latest hold counts for
_FORGOTTEN: Final = 1 / 8192  # of it, with each batch that was not held for
_LEAST_JOINING: Final = 0.5  # items
KNOBS: Final = (
    Knob("worth", _WORTH, 0.15, 0.0, 1.0),
    Knob("latency", _LATENCY, 0.1, 0.0, 10.0),
    Knob("patience", _PATIENCE, 0.3, 0.0, 10.0),
    Knob("reserve", _RESERVE, 2.0, 1.0, 10.0, is_log=True),
    Knob("fill", _FILL, 0.02, 0.0, 1.0),
)
_LEAST_WEIGHT: Final = 0.02  # of accuracy, else the others' would be without bound
LEAST_SPREAD: Final = 0.01  # of accuracy, likewise
_HASTE: Final = 0.3  # of a preference's latency, which deadlines serve already


class _Prices(NamedTuple):
    """What a score is made of: the range of accuracy, joules that count as one, and what joules and seconds cost."""

    least: float
    most: float
    reference_j: float
    energy: float
    haste: float


@compiled
def choose_thrifty(rule: Column, ceiling: float, rows: Table, count: int, query: Column) -> tuple[int, bool]:
    """Return the row with room that scores best, -1 to wait or for none, and whether any at all is in time.

    What is wider than the ceiling does not count.
    """
    least, most, reference_j = _scales(rows, count)
    energy, latency = _weights(rule, most - least, query)
    slack_s = max(1e-9, query[col.HEAD_DEADLINE_S] - query[col.NOW_S])
    prices = _Prices(least, most, reference_j, energy, latency * query[col.SLACK_MARGIN] / slack_s)
    reserve = max(knob(rule, _RESERVE), query[col.SLACK_MARGIN] / query[col.SERVERS_SHARE])
    widest = widest_draining((query[col.TAIL_DEADLINE_S] - query[col.NOW_S]) / reserve, rows, count, query)
    if query[col.REFUSES_LATE] != 0:
        widest = max(widest, nearest_width(0.0, rows, count))
    widest = min(widest, ceiling)
    best, chosen, best_score, chosen_score = -1, -1, -math.inf, -math.inf
    for row in range(count):
        if rows[col.ROW_WIDTH][row] > widest or not is_in_time(row, rows, query):
            continue
        score = _score(row, prices, rows)
        if score > best_score:
            best, best_score = row, score
        if rows[col.ROW_HAS_ROOM][row] != 0 and score > chosen_score:
            chosen, chosen_score = row, score
    worth_waiting = chosen_score + knob(rule, _PATIENCE)
    is_outdone = chosen >= 0 and best_score > worth_waiting
    if is_outdone and _better_suffice(worth_waiting, widest, prices, rows, count, query):
        chosen = -1
    return chosen, best >= 0


@compiled
def _better_suffice(least_score: float, widest: float, prices: _Prices, rows: Table, count: int, query: Column) -> bool:
    """Return whether servers with rows of a better score would have answered all that waits in time."""
    by_s = (query[col.TAIL_DEADLINE_S] - query[col.NOW_S]) / query[col.SLACK_MARGIN]
    total, most, server = 0.0, 0.0, -1.0
    for row in range(count):
        if rows[col.ROW_SERVER][row] != server:
            total, most, server = total + most, 0.0, rows[col.ROW_SERVER][row]
        if rows[col.ROW_WIDTH][row] > widest or not is_in_time(row, rows, query):
            continue
        if _score(row, prices, rows) > least_score:
            most = max(most, sendable_items(by_s, row, rows))
    return total + most >= query[col.QUEUE_ITEMS]


@compiled
def _score(row: int, prices: _Prices, rows: Table) -> float:
    joules = rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_ITEMS][row]
    spread = prices.most - prices.least
    ratio = joules / prices.reference_j if prices.reference_j > 0 and not math.isnan(joules) else 1.0
    position = (rows[col.ROW_ACCURACY][row] - prices.least) / spread if spread > 0 else 0.0
    return position - prices.energy * ratio - prices.haste * rows[col.ROW_COMPLETION_S][row]


@compiled
def fills_until_s(rule: Column, memory: Table, row: int, rows: Table, count: int, query: Column) -> float:
    """Return until when a row that was chosen is held for its batch to fill; now when it is not.

    What became of holds is remembered, so it is to be asked of each row that is about to be sent.
    """
    whole = memory[WHOLE]
    if whole[_HELD_DEADLINE_S] != query[col.HEAD_DEADLINE_S]:  # somebody else has ended the hold, which so says nothing
        whole[_HELD_ITEMS] = 0.0
    reserve = max(knob(rule, _RESERVE), query[col.SLACK_MARGIN])
    batch = largest_batch_within(objective_s(query) / reserve, row, rows)
    takes_s = rows[col.ROW_WAIT_S][row] + rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
    until_s = query[col.HEAD_DEADLINE_S] - takes_s * reserve
    may_fill = query[col.QUEUE_ITEMS] < batch and until_s > query[col.NOW_S]
    if may_fill and _is_worth_filling(rule, whole, batch, row, rows, count, query):
        if whole[_HELD_ITEMS] == 0:
            whole[_HELD_ITEMS], whole[_HELD_DEADLINE_S] = query[col.QUEUE_ITEMS], query[col.HEAD_DEADLINE_S]
        return max(until_s, query[col.NOW_S] + LEAST_WAIT_S)
    _note_sent(whole, batch, query)
    return query[col.NOW_S]


@compiled
def _is_worth_filling(
    rule: Column, whole: Column, batch: float, row: int, rows: Table, count: int, query: Column
) -> bool:
    least, most, reference_j = _scales(rows, count)
    fixed_j, items = rows[col.ROW_FIXED_J][row], rows[col.ROW_ITEMS][row]
    if reference_j <= 0 or math.isnan(fixed_j) or items >= batch:
        return False
    joining = (batch - items) * (1 - whole[_UNFILLED])
    if joining < _LEAST_JOINING and whole[_HELD_ITEMS] == 0:
        return False
    energy, _ = _weights(rule, most - least, query)
    return bool(energy * (fixed_j / items - fixed_j / (items + joining)) / reference_j > knob(rule, _FILL))


@compiled
def _note_sent(whole: Column, batch: float, query: Column) -> None:
    """Remember how full a batch became that was held for."""
    held, queued = whole[_HELD_ITEMS], query[col.QUEUE_ITEMS]
    if held > 0:
        unfilled = max(0.0, batch - queued) / max(1.0, batch - held)
        whole[_UNFILLED] += _LATEST * (min(1.0, unfilled) - whole[_UNFILLED])
        whole[_HELD_ITEMS] = 0.0
    else:
        whole[_UNFILLED] *= 1 - _FORGOTTEN


@compiled
def _weights(rule: Column, spread: float, query: Column) -> tuple[float, float]:
    if math.isnan(query[col.PREFER_ACCURACY]):
        return knob(rule, _WORTH) / max(LEAST_SPREAD, spread), knob(rule, _LATENCY)
    accuracy = max(_LEAST_WEIGHT, query[col.PREFER_ACCURACY])
    return query[col.PREFER_ENERGY] / accuracy, _HASTE * query[col.PREFER_LATENCY] / accuracy


@compiled
def _scales(rows: Table, count: int) -> tuple[float, float, float]:
    """Return the least and the most accuracy, and joules an item in full batches at the widest; 0 while unknown."""
    least, most, total_j, known = math.inf, -math.inf, 0.0, 0
    widest = nearest_width(math.inf, rows, count)
    for row in range(count):
        least, most = min(least, rows[col.ROW_ACCURACY][row]), max(most, rows[col.ROW_ACCURACY][row])
        joules = rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_MAX_BATCH][row]
        if rows[col.ROW_WIDTH][row] == widest and not math.isnan(joules):
            total_j += joules
            known += 1
    return least, most, total_j / known if known > 0 else 0.0
