"""A policy as numbers, and the one function that decides by them.

So the whole decision is one compiled function: a router calls it once a decision, and the simulator's event loop calls
it without coming back to Python. A rule is one column of numbers rather than an object, because a compiled function
can take that from anywhere.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import FIRST_KNOB, KNOB_COUNT, PARAMETER
from orchestrator.policies.rules import batch_rules, brownout, server_rules
from orchestrator.policies.rules.joint import alert, clockwork
from orchestrator.policies.rules.joint.central import THRIFT_BELOW_CEILING, choose_centrally
from orchestrator.policies.rules.width_rules import BROWNOUT, FIXED, NARROWEST, WIDEST, narrow
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import stretch_overdue
from orchestrator.policies.tables.compiled import Column, Table, compiled, compiled_apart
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice
from orchestrator.policies.tables.memory import STRIDE, WHOLE

SERVER_RULE: Final = 0
"""Which server rule is applied; CENTRAL for none."""
WIDTH_RULE: Final = 1
"""Which width rule; of a central policy, which central rule."""
BINDS_LATE: Final = 3
"""1 when it holds for a server that has no room, 0 when requests are bound on arrival."""
CORRECTS_STALE: Final = 4
"""1 when the times of overdue servers are stretched first."""
REMEMBERS: Final = 5
"""What it remembers of answered batches: NOTHING or one of those below."""
RULE_FIELDS: Final = FIRST_KNOB + KNOB_COUNT

DRAWN: Final = 0
IN_TURN: Final = 1
FEWEST_ITEMS: Final = 2  # join the shortest queue (JSQ), also called least connections
LEAST_COMPLETION: Final = 3
SOONER_OF_TWO: Final = 4  # of a pair of servers the one that answers the head first
EMPTIER_OF_TWO: Final = 5  # the one with fewer items: as first published
SHORTEST_DELAY: Final = 6
DRAWN_BY_CAPACITY: Final = 7
LEAST_WORK: Final = 8  # the least seconds of work, whatever the head would add: least work left (LWL)
IN_WEIGHTED_TURN: Final = 9
DRAWN_WITH_BATCH: Final = 10  # says how many as well
CENTRAL: Final = 11
BY_THRESHOLD: Final = 12  # these and those below say when and how many as well
BATCH_IN_TIME: Final = 13
BATCH_WITHIN_LIMIT: Final = 14
BATCH_OF_HALF_DEADLINE: Final = 15
BATCH_AT_LIMIT: Final = 16

NOTHING: Final = 0
BATCH_LIMITS: Final = 1
LAST_RATIOS: Final = 2
SLOW_DOWN: Final = 3

_REASON_CODES: Final = tuple(
    REASONS.index(reason)
    for reason in (
        Reason.DRAWN,
        Reason.NEXT_IN_TURN,
        Reason.FEWEST_ITEMS,
        Reason.LEAST_COMPLETION,
        Reason.BETTER_OF_TWO,
        Reason.BETTER_OF_TWO,
        Reason.LEAST_DELAY,
        Reason.DRAWN_BY_CAPACITY,
        Reason.LEAST_WORK,
        Reason.WEIGHTED_TURN,
        Reason.DRAWN,
    )
)
"""Why, by server rule."""
_BELOW_CEILING: Final = REASONS.index(Reason.BELOW_CEILING)
_NO_CANDIDATE: Final = REASONS.index(Reason.NO_CANDIDATE)
_BETTER_SERVER_BUSY: Final = REASONS.index(Reason.BETTER_SERVER_BUSY)


@compiled_apart
def choose_row(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the row to dispatch, or HOLD or REJECT, the items to send, the code of the reason, and until when to hold.

    It may stretch the times in ``rows`` as the policy believes them, and changes what the policy remembers.
    """
    if count == 0:
        return HOLD, 0.0, _NO_CANDIDATE, math.inf
    if rule[CORRECTS_STALE] != 0:
        stretch_overdue(rows, count)
    server_rule = int(rule[SERVER_RULE])
    if server_rule == CENTRAL:
        return choose_centrally(int(rule[WIDTH_RULE]), rule, memory, rows, count, query)
    if rule[WIDTH_RULE] == BROWNOUT:
        width, timely = brownout.narrow_below(rule, memory, rows, count, query)
    else:
        width, timely = narrow(int(rule[WIDTH_RULE]), rule[PARAMETER], rows, count, query)
    if server_rule > CENTRAL:
        return _steered(server_rule, rule, width, timely, memory, rows, count, query)
    row = _server_of(server_rule, width, timely, memory, rows, count, query)
    if rule[BINDS_LATE] != 0 and rows[col.ROW_HAS_ROOM][row] == 0:
        return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    items = server_rules.drawn_items(row, rows, query) if server_rule == DRAWN_WITH_BATCH else rows[col.ROW_ITEMS][row]
    reason = _REASON_CODES[server_rule]
    if rule[WIDTH_RULE] == BROWNOUT:
        if rule[BINDS_LATE] != 0 and brownout.is_widened(row, rows, count):
            until_s = brownout.free_soon_s(row, rows, query)
            if until_s > query[col.NOW_S]:
                return HOLD, 0.0, _BETTER_SERVER_BUSY, until_s
            items = min(items, brownout.efficient_items(row, rows, query))
        if brownout.is_limiting(memory, rows, count):
            reason = _BELOW_CEILING
    return row, items, reason, math.inf


@compiled
def observe(
    rule: Column,
    memory: Table,
    server: float,
    column: float,
    items: float,
    width: float,
    expected_s: float,
    took_s: float,
    slack_used: float,
    is_in_time: float,
    now_s: float,
) -> None:
    """Let a rule remember what became of a batch, see orchestrator.policies.protocol.Outcome.

    Its fields come one by one, because compiled callers have them in tables.
    """
    if is_browning_out(rule):
        brownout.note_answer(rule, memory, width, items, took_s, slack_used, now_s)
    place = int(server * memory[WHOLE][STRIDE] + column)
    if rule[REMEMBERS] == BATCH_LIMITS:
        batch_rules.adapt_limit(rule, memory, place, items, is_in_time)
    elif rule[REMEMBERS] == LAST_RATIOS:
        clockwork.note_ratio(memory, place, expected_s, took_s)
    elif rule[REMEMBERS] == SLOW_DOWN:
        alert.follow_slow_down(memory, expected_s, took_s)


@compiled
def observe_miss(rule: Column, memory: Table, now_s: float) -> None:
    """Let a rule remember that a request was refused because of load, or was not answered in time."""
    if is_browning_out(rule):
        brownout.note_misses(memory, 1.0, now_s)


def only_width(rule: Column) -> float | None:
    """Return the width to which a policy always takes the nearest that it is offered; None when it may take any.

    It is in percent; 0 stands for the narrowest, infinity for the widest.
    """
    if rule[SERVER_RULE] == CENTRAL:
        return None
    return {WIDEST: math.inf, NARROWEST: 0.0, FIXED: float(rule[PARAMETER])}.get(int(rule[WIDTH_RULE]))


@compiled
def is_browning_out(rule: Column) -> bool:
    """Return whether the width is chosen under a ceiling that what becomes of requests moves."""
    return bool(rule[WIDTH_RULE] == (THRIFT_BELOW_CEILING if rule[SERVER_RULE] == CENTRAL else BROWNOUT))


@compiled
def _steered(
    server_rule: int, rule: Column, width: float, timely: float, memory: Table, rows: Table, count: int, query: Column
) -> Choice:
    """Return the decision of a rule that says when and how many as well, at the width that a width rule has left."""
    if server_rule == BY_THRESHOLD:
        return batch_rules.choose_by_threshold(rule, width, timely, rows, count, query)
    if server_rule == BATCH_IN_TIME:
        return batch_rules.choose_in_time(width, timely, rows, count, query)
    if server_rule == BATCH_WITHIN_LIMIT:
        return batch_rules.choose_within_limit(width, timely, memory, rows, count, query)
    if server_rule == BATCH_OF_HALF_DEADLINE:
        return batch_rules.choose_half_deadline(width, timely, rows, count, query)
    return batch_rules.choose_at_limit(rule, width, timely, rows, count, query)


@compiled
def _server_of(
    server_rule: int, width: float, timely: float, memory: Table, rows: Table, count: int, query: Column
) -> int:
    """Return the row that a server rule takes of those that a width rule has left."""
    if server_rule in (DRAWN, DRAWN_WITH_BATCH):
        return server_rules.drawn(width, timely, rows, count, query)
    if server_rule == IN_TURN:
        return server_rules.in_turn(width, timely, rows, count, query)
    if server_rule == FEWEST_ITEMS:
        return server_rules.least(col.ROW_SERVER_ITEMS, width, timely, -1.0, -1.0, rows, count, query)
    if server_rule == LEAST_COMPLETION:
        return server_rules.least_completion(width, timely, rows, count, query)
    if server_rule == SOONER_OF_TWO:
        return server_rules.better_of_two(col.ROW_HEAD_COMPLETION_S, width, timely, rows, count, query)
    if server_rule == EMPTIER_OF_TWO:
        return server_rules.better_of_two(col.ROW_SERVER_ITEMS, width, timely, rows, count, query)
    if server_rule == SHORTEST_DELAY:
        return server_rules.shortest_delay(width, timely, rows, count, query)
    if server_rule == LEAST_WORK:
        return server_rules.least(col.ROW_BACKLOG_S, width, timely, -1.0, -1.0, rows, count, query)
    if server_rule == IN_WEIGHTED_TURN:
        return server_rules.in_weighted_turn(width, timely, memory, rows, count, query)
    return server_rules.drawn_by_capacity(width, timely, rows, count, query)
