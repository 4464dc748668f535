"""A ceiling on width that falls at once under pressure and rises slowly: widths give way before answers do.

What is expected of a server rests on what was observed of it, and says nothing of what nobody has observed yet: a job
beside it that takes half of its cores, a gateway that has no core to read requests with, a stall. All of these show in
how long answers really took, and wide networks make all of them worse. So, as congestion control does with a window
(additive increase, multiplicative decrease; Chiu and Jain, 1989) and brownout control with what a page shows (Klein et
al., "Brownout: building more robust cloud applications", ICSE 2014), what becomes of requests moves a ceiling:

- A request that was refused because of load, or was not answered in time, puts the ceiling to the narrowest width, for
  ``calm_s`` after the last of them; not one whose deadline an idle server could not have kept, or a client who asks for
  the impossible would narrow everybody.
- An answer that used more than ``used`` of the time that it had to spare puts it one width lower; so does more than
  all servers could answer, whether or not anybody has waited for it yet.
- While neither happens, it rises by a width every ``step_s``, as long as servers could answer what arrives in ``load``
  of their time: at the width that it rises to, or, where that is so much more accurate that it is worth the risk, at
  the one that it leaves. Then some requests get the one and some the other; families of few widths far apart would
  waste much otherwise. What it risks is how much longer than expected answers take (orchestrator.profile.margin).
- A width at which it had to fall is left out, for a second at first and twice as long each time that it fails again
  soon after it was tried, as a caller backs off: load that changes makes any width fail once. It is left out no longer
  than that the requests that this has cost are ``PRICE`` of the accuracy that the width could have gained in that time:
  where a width gains little, it is hardly ever tried beside a job that makes it fail, and where it gains much, all the
  time.

Below the ceiling the width is the widest at which the head is in time and the queue drains in a ``reserve``-th of its
time, and within ``LONGEST_DRAIN_S`` (policies.rules.width_rules). Where a request allows no width below it, the
narrowest that it allows is taken. ``thrift`` may run below a ceiling as well (policies.rules.joint.thrift): then what
it weighs is what is not wider.

A batch that was sent can't be narrowed any more. So when load rises all at once, as with a crowd, what servers hold at
a wide width is lost to it, however soon the ceiling falls. Therefore, of server rules that bind late and do not size
batches themselves, those wider than the narrowest are no larger than it takes for ``EFFICIENCY`` of the items a second
of full ones, or than runs in ``AHEAD_S``, and a server is sent one no earlier than ``AHEAD_S`` before it is free.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.batch_rules import LEAST_WAIT_S, largest_batch_within
from orchestrator.policies.rules.demand import FREE_SLOT, RATE_RPS, follow_demand
from orchestrator.policies.rules.width_rules import is_timely, next_width
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps, full_batch_s, margin_of, nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import WHOLE

_CALM: Final = 12
_STEP: Final = 13
_USED: Final = 14
_LOAD: Final = 15
_RISK: Final = 16
_RESERVE: Final = 17
CALM_S: Final = 1.0
STEP_S: Final = 0.25
CEILING_KNOBS: Final = (
    # From the last request that was missed to when the ceiling rises.
    Knob("calm_s", _CALM, CALM_S, 0.01, 60.0, is_log=True),
    # From one rise to the next, and from a step down to a rise.
    Knob("step_s", _STEP, STEP_S, 0.001, 60.0, is_log=True),
    # Part of the time that an answer had to spare above which it says that there is too much to do.
    Knob("used", _USED, 0.7, 0.0, 1.0),
    # Part of the servers' time that what arrives may take for the ceiling to rise.
    Knob("load", _LOAD, 0.8, 0.05, 2.0),
    # Relative gain in accuracy, over the square of the margin, from which on two widths are mixed.
    Knob("risk", _RISK, 0.003, 0.0001, 1.0, is_log=True),
)
"""Of each policy that has a ceiling; at places that no rule has for its own."""
KNOBS: Final = (
    *CEILING_KNOBS,
    # The queue must drain in that part of its time, with the margin: the rest is for what comes meanwhile.
    Knob("reserve", _RESERVE, 2.5, 1.0, 10.0, is_log=True),
)
PRICE: Final = 0.5
"""Part of what a width could gain that trying it again may cost."""
SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""From when a width failed to when it is tried again."""
AGAIN_S: Final = 5.0
"""A width that fails later than that after it was tried has done well meanwhile; its pauses are short again."""
LONGEST_DRAIN_S: Final = 1.0
"""However much time it has, or deadlines of half a minute would let it grow until it is full; in the long run the width
is what the load leaves time for, and a longer queue only makes answers late."""
EFFICIENCY: Final = 0.95
"""Part of the items a second of full batches that those of wider widths reach."""
AHEAD_S: Final = 0.004
"""Before a server is free for a wider batch: what an answer and the next batch take to travel, on a busy machine."""
RELIEVED: Final = 0.7
"""With less than this part of what came when a width failed, that says nothing of it any more."""
_WINDOW_S: Final = 0.25  # over which arrivals are counted

_CEILING: Final = FREE_SLOT  # of row WHOLE: the widest width that is allowed, in percent; 0 before the first decision
_PRESSURE: Final = FREE_SLOT + 1  # what has been noted since the last decision: misses, or HIGH
_CHANGED_S: Final = FREE_SLOT + 2  # when the ceiling last changed
_RISES_S: Final = FREE_SLOT + 3  # when it may rise
_FAILED: Final = FREE_SLOT + 4  # the width at which it last had to fall; 0: none
_FAILED_S: Final = FREE_SLOT + 5  # when
_MISSES: Final = FREE_SLOT + 6  # what that has cost
_FAILED_RPS: Final = FREE_SLOT + 7  # how much came then
_FAILURES: Final = FREE_SLOT + 8  # how often it has failed again since it last did well
_NOTED_S: Final = FREE_SLOT + 9  # when the last of what was noted was
SLOT_BEHIND: Final = FREE_SLOT + 10
"""The first that who decides below a ceiling may use."""

_NONE: Final = 0.0
_HIGH: Final = 0.5


@compiled
def note_answer(
    rule: Column, memory: Table, width: float, items: float, took_s: float, slack_used: float, now_s: float
) -> None:
    """Note what became of a batch that ran at a width, see orchestrator.policies.protocol.Outcome."""
    whole = memory[WHOLE]
    if slack_used > 1:
        note_misses(memory, items, now_s)
    elif slack_used > knob(rule, _USED) and width <= whole[_CEILING] and now_s - took_s >= whole[_CHANGED_S]:
        # What was sent before the ceiling fell says nothing of how it is now.
        whole[_PRESSURE], whole[_NOTED_S] = max(whole[_PRESSURE], _HIGH), now_s


@compiled
def note_misses(memory: Table, count: float, now_s: float) -> None:
    """Note that requests were refused because of load, or were not answered in time."""
    whole = memory[WHOLE]
    whole[_PRESSURE], whole[_NOTED_S] = math.floor(whole[_PRESSURE]) + count, now_s


@compiled
def narrow_below(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> tuple[float, float]:
    """Return the width, and which of its rows count, as orchestrator.policies.rules.width_rules.narrow does."""
    ceiling, least_reserve = ceiling_now(rule, memory, rows, count, query), reserve_of(rule)
    widest, soonest, reserve = 0.0, -1, least_reserve
    for row in range(count):
        width = rows[col.ROW_WIDTH][row]
        if width > ceiling:
            continue
        drains_soon = rows[col.ROW_DRAIN_S][row] <= LONGEST_DRAIN_S
        of_row = least_reserve * max(1.0, margin_of(row, rows, query))
        if width > widest and drains_soon and is_timely(row, of_row, rows, query):
            widest, reserve = width, of_row
        if soonest < 0 or _drains_sooner(row, soonest, rows):
            soonest = row
    if widest > nearest_width(0.0, rows, count):
        return widest, reserve
    if widest > 0:
        return widest, 0.0  # there is no narrower one that a server could take which is not in time
    return rows[col.ROW_WIDTH][soonest], 0.0


@compiled
def is_widened(row: int, rows: Table, count: int) -> bool:
    """Return whether a row is wider than the narrowest, so that what is sent could have been narrower."""
    return bool(rows[col.ROW_WIDTH][row] > nearest_width(0.0, rows, count))


@compiled
def efficient_items(row: int, rows: Table, query: Column) -> float:
    """Return how many items of its batch a row takes at once, at least the head."""
    items, full_s = rows[col.ROW_ITEMS][row], full_batch_s(row, rows)
    if full_s <= 0:
        return items
    # n/(a·n + b) of the batch is that part of N/(a·N + b) of a full one.
    rate_rps = EFFICIENCY * rows[col.ROW_MAX_BATCH][row] / full_s
    least = math.ceil(rate_rps * rows[col.ROW_FIXED_S][row] / (1 - rate_rps * rows[col.ROW_PER_ITEM_S][row]))
    return max(query[col.HEAD_ITEMS], min(items, max(least, largest_batch_within(AHEAD_S, row, rows))))


@compiled
def free_soon_s(row: int, rows: Table, query: Column) -> float:
    """Return when a row's server will soon be free; now where it is, or almost."""
    early_s = rows[col.ROW_WAIT_S][row] - AHEAD_S
    return query[col.NOW_S] + (early_s if early_s > LEAST_WAIT_S else 0.0)


@compiled
def reserve_of(rule: Column) -> float:
    """Return in which part of its time, as one over it, the queue must drain below the ceiling."""
    return knob(rule, _RESERVE)


@compiled
def is_limiting(memory: Table, rows: Table, count: int) -> bool:
    """Return whether some row is wider than the ceiling, and not all of them."""
    ceiling = max(memory[WHOLE][_CEILING], nearest_width(0.0, rows, count))
    return bool(ceiling < nearest_width(math.inf, rows, count))


@compiled
def _drains_sooner(row: int, other: int, rows: Table) -> bool:
    drain_s, other_s = rows[col.ROW_DRAIN_S][row], rows[col.ROW_DRAIN_S][other]
    return bool(drain_s < other_s or (drain_s == other_s and rows[col.ROW_WIDTH][row] < rows[col.ROW_WIDTH][other]))


@compiled
def ceiling_now(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> float:
    """Return the ceiling for these rows, after what was noted and the time that has passed; at least the narrowest."""
    follow_demand(_WINDOW_S, memory, query)
    whole, now_s = memory[WHOLE], query[col.NOW_S]
    narrowest, widest = nearest_width(0.0, rows, count), nearest_width(math.inf, rows, count)
    if whole[_CEILING] == 0:
        whole[_CEILING] = math.inf
    current = max(narrowest, min(widest, whole[_CEILING]))
    within = _next_lower(current + 1, rows, count)  # what these rows have up to there
    if whole[_PRESSURE] != _NONE:
        _fall(rule, current, whole, rows, count)
    elif within > narrowest and not _keeps_up(
        rule, _next_lower(within, rows, count), within, 1.0, whole, rows, count, query
    ):
        whole[_CEILING], whole[_CHANGED_S] = _next_lower(within, rows, count), now_s
        whole[_RISES_S] = now_s + knob(rule, _STEP)
    _rise(rule, whole, rows, count, query)
    return max(narrowest, whole[_CEILING])


@compiled
def _fall(rule: Column, current: float, whole: Column, rows: Table, count: int) -> None:
    """Lower the ceiling for what has been noted, as of when that was: a decision may come long after it."""
    pressure, whole[_PRESSURE], noted_s = whole[_PRESSURE], _NONE, whole[_NOTED_S]
    if current > nearest_width(0.0, rows, count):  # else the width is not what is to blame
        _note_failure(rule, whole, current, noted_s)
    if noted_s - whole[_FAILED_S] <= knob(rule, _CALM):
        whole[_MISSES] += math.floor(pressure)
    lower = 1.0 if pressure >= 1 else _next_lower(current, rows, count)
    if lower < whole[_CEILING]:
        whole[_CEILING], whole[_CHANGED_S] = lower, noted_s
    whole[_RISES_S] = noted_s + (knob(rule, _CALM) if pressure >= 1 else knob(rule, _STEP))


@compiled
def _rise(rule: Column, whole: Column, rows: Table, count: int, query: Column) -> None:
    """Let the ceiling rise by a width for each step of time in which it could have, whether or not anybody came."""
    now_s, narrowest, widest = query[col.NOW_S], nearest_width(0.0, rows, count), nearest_width(math.inf, rows, count)
    within = _next_lower(max(narrowest, min(widest, whole[_CEILING])) + 1, rows, count)
    while within < widest and now_s >= whole[_RISES_S]:
        higher = next_width(within, rows, count)
        has_failed = 0 < whole[_FAILED] <= higher and whole[RATE_RPS] > RELIEVED * whole[_FAILED_RPS]
        pause_s = _pause_s(within, higher, whole, rows, count) if has_failed else 0.0
        is_left_out = now_s < whole[_FAILED_S] + pause_s
        if is_left_out or not _keeps_up(rule, within, higher, knob(rule, _LOAD), whole, rows, count, query):
            whole[_RISES_S] = now_s
            return
        whole[_CEILING] = math.inf if higher == widest else higher
        whole[_CHANGED_S] = now_s
        whole[_RISES_S] += knob(rule, _STEP)
        if higher >= whole[_FAILED]:
            whole[_MISSES] = 0.0
        within = higher


@compiled
def _note_failure(rule: Column, whole: Column, width: float, now_s: float) -> None:
    """Note that the ceiling falls because of what became of requests at a width."""
    if now_s - whole[_FAILED_S] > knob(rule, _CALM):
        is_again = whole[_FAILED] <= width and whole[_FAILED_S] < whole[_CHANGED_S] > now_s - AGAIN_S
        whole[_FAILURES] = whole[_FAILURES] + 1 if is_again else 0.0
    whole[_FAILED], whole[_FAILED_S], whole[_FAILED_RPS] = width, now_s, whole[RATE_RPS]


@compiled
def _capacity_rps(width: float, rows: Table, count: int) -> float:
    """Return the items a second that all servers answer in full batches of one width."""
    total_rps = 0.0
    for row in range(count):
        if rows[col.ROW_WIDTH][row] == width:
            total_rps += capacity_rps(row, rows)
    return total_rps


@compiled
def _keeps_up(
    rule: Column, width: float, higher: float, load: float, whole: Column, rows: Table, count: int, query: Column
) -> bool:
    """Return whether servers can answer what arrives, in so much of their time, with the ceiling at ``higher``."""
    margin = 1.0
    for row in range(count):
        if rows[col.ROW_WIDTH][row] == width:
            margin = max(margin, margin_of(row, rows, query))
    mixes = _gain(width, higher, rows, count) >= knob(rule, _RISK) * margin * margin
    return bool(load * _capacity_rps(width if mixes else higher, rows, count) >= whole[RATE_RPS])


@compiled
def _gain(width: float, higher: float, rows: Table, count: int) -> float:
    """Return how much more accurate a wider width is than another, in parts of the other's accuracy; both have rows."""
    accuracy, gained = 1.0, 1.0
    for row in range(count):
        if rows[col.ROW_WIDTH][row] == width:
            accuracy = rows[col.ROW_ACCURACY][row]
        if rows[col.ROW_WIDTH][row] == higher:
            gained = rows[col.ROW_ACCURACY][row]
    return gained / accuracy - 1 if accuracy > 0 else 0.0


@compiled
def _pause_s(width: float, higher: float, whole: Column, rows: Table, count: int) -> float:
    """Return for how long a width at which the ceiling had to fall is left out, by how often and what that has cost."""
    longest_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2.0 ** min(10.0, whole[_FAILURES]))
    gained_rps = PRICE * _gain(width, higher, rows, count) * whole[RATE_RPS]
    if whole[_MISSES] >= gained_rps * longest_s:
        return longest_s if whole[_MISSES] > 0 else SHORTEST_PAUSE_S
    return max(SHORTEST_PAUSE_S, whole[_MISSES] / gained_rps)


@compiled
def _next_lower(width: float, rows: Table, count: int) -> float:
    """Return the next narrower width that some row has; the narrowest when there is none."""
    lower = nearest_width(0.0, rows, count)
    following = lower
    while following < width:
        lower, following = following, next_width(following, rows, count)
    return lower
