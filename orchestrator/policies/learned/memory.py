"""What a learned policy remembers: what has arrived of late, the hold that stands, and how long batches usually take.

**Arrivals** tell apart what the queue alone does not: a quiet hour and a busy one, a steady stream and bursts. What is
right depends on both: whether a batch will fill while the head waits, and how much of the fleet must be kept for what
is to come. Two rates are followed, one that forgets with each deadline and one with each eight; for T either time, at
each decision,

    N ← N·exp(−Δ/T) + arrived·(T/Δ)·(1 − exp(−Δ/T)),    D ← T − (T − D)·exp(−Δ/T),    rate = N/D,

with what arrived spread over the time since the decision before: a policy that was not asked for long, because another
one had its turn, does not take all that came meanwhile for a crowd of now. So a rate needs no window and is nearly
right from its first deadline on; D begins at a fifth of T, or two requests that happen to come together would begin it
as a crowd. Times are in deadlines of the head, so on machines of any speed the numbers mean the same.

What has arrived is counted by whoever asks (``ARRIVED_ITEMS``), so rates are right whatever is done with it, by whom,
and in how many queues. To infer it from what the queue had grown by beyond what a decision left, as was done, made them
too high in the shadow of another policy, which sends something else, and so what was rolled out under load was out of
the range of all that it had been trained on.

**A hold stands**: a learned policy does not decide again at every arrival what it has just decided. While the head is
the same, nothing has gained or lost room, the base policy has not changed its mind between sending and holding, and
the queue has not grown by half, or to what was waited for, what a hold was decided about is as it was, so it goes on
until its time. That saves
scoring at every arrival; and it is what makes holds learnable: with one draw an arrival no long hold would survive an
exploring policy, so what it brings would never be seen.

Whether a hold brings anybody is remembered as well. To wait for a batch to fill needs somebody to be expected before
the hold is over, by the rate of late and by what part of this policy's own holds was in vain, whatever they waited
for: a caller who waits for each answer before he asks again fills no batch however long he is made to wait, and a rate
alone would say otherwise of him.

**What batches usually take** is the mean of what a full one was expected to take, over the last some 256 deadlines, in
row OF_LEARNED_MODEL. Expected times follow within a few batches what a server does; held against this they show one
that is throttled, or shared with others, and will be quick again.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.rules.batch_rules import objective_s
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import full_batch_s
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REJECT
from orchestrator.policies.tables.memory import OF_LEARNED, OF_LEARNED_MODEL, WHOLE, model_place

_HOLD_UNTIL_S: Final = OF_LEARNED  # slots of row WHOLE; 0: no hold stands
_HEAD_DEADLINE_S: Final = OF_LEARNED + 1
_MOST_ITEMS: Final = OF_LEARNED + 2
_ROOM: Final = OF_LEARNED + 3
_SEEN_S: Final = OF_LEARNED + 4
_ARRIVED_ITEMS: Final = OF_LEARNED + 5
_QUICK_ITEMS: Final = OF_LEARNED + 6
_QUICK_S: Final = OF_LEARNED + 7  # 0: nothing was seen yet
_SLOW_ITEMS: Final = OF_LEARNED + 8
_SLOW_S: Final = OF_LEARNED + 9
_SWING: Final = OF_LEARNED + 10
_HELD_ITEMS: Final = OF_LEARNED + 11  # that waited when the hold began; 0: nothing is held
_VAIN: Final = OF_LEARNED + 12
_USUAL_SEEN_S: Final = OF_LEARNED + 13
_SLOWER: Final = 8.0
_BEGUN: Final = 0.2
_LEAST_S: Final = 1e-9
_GROWTH: Final = 1.5
_LATEST: Final = 0.25  # what the latest hold counts for
_FORGOTTEN: Final = 1 / 8192  # of it, with each decision to send at once
_USUAL: Final = 256.0  # deadlines in which what batches usually take is mostly forgotten


@compiled
def follow_arrivals(memory: Table, query: Column) -> None:
    """Bring the rates up to date; to be called first in each decision."""
    whole, now_s, so_far = memory[WHOLE], query[col.NOW_S], query[col.ARRIVED_ITEMS]
    quick_s = max(_LEAST_S, objective_s(query))
    if whole[_QUICK_S] == 0:
        whole[_QUICK_S], whole[_SLOW_S] = _BEGUN * quick_s, _BEGUN * _SLOWER * quick_s
    else:
        passed_s, arrived = max(0.0, now_s - whole[_SEEN_S]), max(0.0, so_far - whole[_ARRIVED_ITEMS])
        quick, slow = math.exp(-passed_s / quick_s), math.exp(-passed_s / (_SLOWER * quick_s))
        whole[_QUICK_ITEMS] = whole[_QUICK_ITEMS] * quick + arrived * _kept(passed_s / quick_s)
        whole[_QUICK_S] = quick_s - (quick_s - whole[_QUICK_S]) * quick
        whole[_SLOW_ITEMS] = whole[_SLOW_ITEMS] * slow + arrived * _kept(passed_s / (_SLOWER * quick_s))
        whole[_SLOW_S] = _SLOWER * quick_s - (_SLOWER * quick_s - whole[_SLOW_S]) * slow
        slow_of_late_rps = slow_rps(memory)
        departure = quick_rps(memory) / slow_of_late_rps - 1 if slow_of_late_rps > 0 else 0.0
        whole[_SWING] += (1 - slow) * (departure * departure - whole[_SWING])
    whole[_SEEN_S], whole[_ARRIVED_ITEMS] = now_s, so_far


@compiled
def _kept(times: float) -> float:
    """Return what is left of what arrived evenly over so many times the time in which it is forgotten."""
    return -math.expm1(-times) / times if times > 0 else 1.0


@compiled
def quick_rps(memory: Table) -> float:
    """Return how many items a second arrived in the last deadline or so."""
    held_s = memory[WHOLE][_QUICK_S]
    return memory[WHOLE][_QUICK_ITEMS] / held_s if held_s > 0 else 0.0


@compiled
def slow_rps(memory: Table) -> float:
    """Return how many items a second arrived in the last eight deadlines or so."""
    held_s = memory[WHOLE][_SLOW_S]
    return memory[WHOLE][_SLOW_ITEMS] / held_s if held_s > 0 else 0.0


@compiled
def swing(memory: Table) -> float:
    """Return the mean square by which the quick rate departs from the slow one, relative to that."""
    return max(0.0, memory[WHOLE][_SWING])


@compiled
def follow_times(memory: Table, rows: Table, count: int, query: Column) -> None:
    """Bring what batches usually take up to date."""
    whole, now_s = memory[WHOLE], query[col.NOW_S]
    taken = 1 - math.exp(-max(0.0, now_s - whole[_USUAL_SEEN_S]) / max(_LEAST_S, _USUAL * objective_s(query)))
    whole[_USUAL_SEEN_S] = now_s
    usual_s = memory[OF_LEARNED_MODEL]
    for row in range(count):
        place, takes_s = model_place(memory, row, rows), full_batch_s(row, rows)
        usual_s[place] = takes_s if usual_s[place] == 0 else usual_s[place] + taken * (takes_s - usual_s[place])


@compiled
def slowed_ratio(memory: Table, row: int, rows: Table) -> float:
    """Return how many times as long as usual a row's batches are expected to take; 1 while nothing is known."""
    usual_s, takes_s = memory[OF_LEARNED_MODEL][model_place(memory, row, rows)], full_batch_s(row, rows)
    return takes_s / usual_s if usual_s > 0 and takes_s > 0 else 1.0


@compiled
def standing_hold(memory: Table, rows: Table, count: int, query: Column, base: Column) -> tuple[int, float, float]:
    """Return HOLD, no items and until when, where the last hold goes on; 0 in place of HOLD where none does.

    Where the base holds as well, and not for as long, its own time counts.
    """
    whole = memory[WHOLE]
    if query[col.NOW_S] >= whole[_HOLD_UNTIL_S] or query[col.HEAD_DEADLINE_S] != whole[_HEAD_DEADLINE_S]:
        return 0, 0.0, 0.0
    if query[col.QUEUE_ITEMS] >= whole[_MOST_ITEMS] or _room(rows, count, base) != whole[_ROOM]:
        return 0, 0.0, 0.0
    until_s = whole[_HOLD_UNTIL_S]
    return HOLD, 0.0, min(base[col.DECIDED_UNTIL_S], until_s) if base[col.DECIDED_ROW] == HOLD else until_s


@compiled
def may_fill(lasts_s: float, memory: Table, query: Column) -> bool:
    """Return whether somebody is expected to join within so long; not when a hold has just brought the head nobody."""
    whole = memory[WHOLE]
    is_same = whole[_HEAD_DEADLINE_S] == query[col.HEAD_DEADLINE_S]
    if whole[_HELD_ITEMS] > 0 and is_same and query[col.QUEUE_ITEMS] <= whole[_HELD_ITEMS]:
        return False
    return quick_rps(memory) * lasts_s * (1 - whole[_VAIN]) >= 1


@compiled
def note_decision(
    row: int, until_s: float, memory: Table, rows: Table, count: int, query: Column, base: Column
) -> None:
    """Remember a hold that was decided, or that the head is not held any more.

    What is remembered is of one head; another class's, decided about in between, does not end its hold.
    """
    whole = memory[WHOLE]
    is_same = whole[_HEAD_DEADLINE_S] == query[col.HEAD_DEADLINE_S]
    if row != HOLD:
        if whole[_HELD_ITEMS] == 0 or not is_same:
            whole[_VAIN] *= 1 - _FORGOTTEN
        else:
            is_vain = 1.0 if query[col.QUEUE_ITEMS] <= whole[_HELD_ITEMS] else 0.0
            whole[_VAIN] += _LATEST * (is_vain - whole[_VAIN])
        if is_same:
            whole[_HOLD_UNTIL_S] = whole[_HELD_ITEMS] = 0.0
        return
    # What the base waits for it knows itself.
    if base[col.DECIDED_ROW] != HOLD and (whole[_HELD_ITEMS] == 0 or not is_same):
        whole[_HELD_ITEMS] = query[col.QUEUE_ITEMS]
    whole[_HOLD_UNTIL_S], whole[_HEAD_DEADLINE_S] = until_s, query[col.HEAD_DEADLINE_S]
    whole[_MOST_ITEMS] = 1 + _GROWTH * query[col.QUEUE_ITEMS]
    whole[_ROOM] = _room(rows, count, base)


@compiled
def end_hold_at(items: float, memory: Table) -> None:
    """Let the hold that stands end when so many items wait."""
    memory[WHOLE][_MOST_ITEMS] = items


@compiled
def _room(rows: Table, count: int, base: Column) -> float:
    """Return how many rows have room, and a half where the base holds, a quarter where it gives the head up."""
    found = 0.5 if base[col.DECIDED_ROW] == HOLD else 0.25 if base[col.DECIDED_ROW] == REJECT else 0.0
    for row in range(count):
        found += rows[col.ROW_HAS_ROOM][row]
    return found
