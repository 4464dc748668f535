from __future__ import annotations

import pytest

from benchmarks.resilience.clients.plan import PLAN, REPLIES, Plan, Replies, Stretch
from benchmarks.resilience.time_bins import sum_time_bins

SENT = Plan((Stretch(1.0, 4.0), Stretch(0.5, 10.0)), 1, {"slim_deadline_ms": 1000}, "images.npz")


def answered() -> Replies:
    """Return replies of which one is late, one refused, one missing and the others are good."""
    replies = Replies.of(SENT)
    for number, due_s in enumerate(replies.due_s):
        replies.ended_s[number], replies.status[number] = due_s + 0.01, "ok"
        replies.width[number], replies.server[number], replies.answers[number] = 25, "a", 1
    replies.ended_s[0] = replies.due_s[0] + 1.001
    replies.status[1] = "RESOURCE_EXHAUSTED"
    replies.ended_s[2], replies.status[2] = None, None
    return replies


def test_requests_are_due_at_even_distances_stretch_after_stretch() -> None:
    assert SENT.due_s() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.1, 1.2, 1.3, 1.4])


def test_files_give_back_what_was_written() -> None:
    assert PLAN.validate_json(PLAN.dump_json(SENT)) == SENT
    assert REPLIES.validate_json(REPLIES.dump_json(answered())) == answered()


def test_in_time_means_answered_well_within_the_deadline_from_when_it_was_due() -> None:
    replies = answered()
    assert [n for n in range(9) if not replies.is_in_time(n, 1.0)] == [0, 1, 2]
    assert replies.latency_s(2) is None
    assert replies.between(0.5, 1.1) == [2, 3, 4]


def test_time_bins_account_for_every_request() -> None:
    time_bins = sum_time_bins(answered(), 1.0)
    assert [m.sent for m in time_bins] == [1, 1, 1, 1, 3, 2]
    assert [m.lost for m in time_bins] == [1, 0, 1, 0, 0, 0]
    assert [m.refused for m in time_bins] == [0, 1, 0, 0, 0, 0]
    assert sum(sum(m.by_width.values()) + m.refused + m.lost for m in time_bins) == 9
