"""What a fleet sends by a time, and who is needed when nothing is in time, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.decision import Candidate, Dispatch, Hold, Reason
from orchestrator.policies.fleet.row_values import write_candidate
from orchestrator.policies.rules.drain import row_to_drain, sendable_items, widest_draining
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, new_column, new_table
from tests.policies.cases import WIDTHS, Asker, line_candidate

QUICK = line_candidate("a", 100, per_item_s=0.01, wait_s=0.02, max_batch_size=8)
SLOW = line_candidate("b", 100, per_item_s=0.01, fixed_s=0.2, max_batch_size=8)


def rows_of(*candidates: Candidate) -> Table:
    rows, names = new_table(col.ROW_FIELDS, len(candidates)), sorted({c.server for c in candidates})
    for row, candidate in enumerate(candidates):
        write_candidate(rows, row, candidate, names.index(candidate.server), list(WIDTHS).index(candidate.width))
    return rows


def ask_for(items: int) -> Column:
    query = new_column(col.QUERY_FIELDS)
    query[col.QUEUE_ITEMS], query[col.HEAD_ITEMS] = float(items), 1.0
    return query


@pytest.mark.parametrize(
    ("candidate", "by_s", "items"),
    [
        (QUICK, 0.12, 10.0),  # batches of 8 in 0.08 s, for 0.1 s
        (QUICK, 0.05, 3.0),  # batches of 5 at the same rate, for 0.03 s
        (QUICK, 0.02, 0.0),  # busy until then
        (SLOW, 0.2, 0.0),  # a single item would take longer
        (SLOW, 0.25, 5.0),  # one batch of 5
        (replace(SLOW, instances=2), 0.25, 10.0),
    ],
)
def test_what_is_sendable_keeps_to_the_time_that_there_is(candidate: Candidate, by_s: float, items: float) -> None:
    assert sendable_items(by_s, 0, rows_of(candidate)) == pytest.approx(items)


def test_a_server_whose_only_item_would_be_late_lets_nobody_run_wider() -> None:
    narrow = line_candidate("a", 50, per_item_s=0.005, wait_s=0.02, max_batch_size=8)
    rows = rows_of(narrow, QUICK, replace(SLOW, width=WIDTHS[-1]))
    assert [widest_draining(0.12, rows, 3, ask_for(n)) for n in (9, 11, 19, 21)] == [100, 50, 50, 0]
    assert widest_draining(0.25, rows, 3, ask_for(28)) == 100  # 23 and 5


def test_a_slow_server_helps_to_drain_only_what_the_others_would_not_have_done_meanwhile() -> None:
    rows = rows_of(replace(QUICK, has_room=False), SLOW)
    # Its batch of 8 would end after 0.28 s, by when the quick one has answered 26.
    assert row_to_drain(rows, 2, ask_for(26)) == (-1, 0.0)
    assert row_to_drain(rows, 2, ask_for(27)) == (1, 8.0)
    assert row_to_drain(rows_of(replace(QUICK, has_room=False)), 1, ask_for(99)) == (-1, 0.0)


def test_of_servers_with_room_the_one_whose_full_batch_ends_first_is_taken_at_its_quickest_width() -> None:
    narrow = line_candidate("a", 50, per_item_s=0.005, wait_s=0.02, max_batch_size=8)
    rows = rows_of(narrow, QUICK, line_candidate("b", 50, per_item_s=0.02, max_batch_size=2), SLOW)
    assert row_to_drain(rows, 4, ask_for(99)) == (2, 2.0)  # after 0.04 s, the other after 0.06
    busy = line_candidate("b", 50, per_item_s=0.02, has_room=False)
    assert row_to_drain(rows_of(narrow, QUICK, busy), 3, ask_for(99)) == (0, 8.0)


def test_a_single_server_has_nobody_to_share_a_queue_with() -> None:
    narrow = line_candidate("a", 50, per_item_s=0.005, wait_s=0.02, max_batch_size=8)
    assert row_to_drain(rows_of(narrow, QUICK), 2, ask_for(99)) == (-1, 0.0)


def test_thrift_drains_a_hopeless_queue_with_all_servers() -> None:
    fleet = [replace(QUICK, has_room=False), SLOW]
    assert Asker("thrift").query(fleet, slack_s=0.01, items=5) == Hold(Reason.BETTER_SERVER_BUSY)
    sent = Asker("thrift").query(fleet, slack_s=0.01, items=90)
    assert isinstance(sent, Dispatch)
    assert (sent.candidate.server, sent.candidate.items, sent.reason) == ("b", 8, Reason.NONE_IN_TIME)
