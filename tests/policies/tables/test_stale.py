from __future__ import annotations

import pytest

from orchestrator.decision import Candidate, Dispatch
from orchestrator.policies.fleet.row_values import read_candidate, write_candidate
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import stretch_overdue
from orchestrator.policies.tables.compiled import new_table
from orchestrator.snapshot import QueueState, ServerName
from tests.policies.fleets import WIDTHS, build_candidates, fleet_server, latencies

# a was sent 4 items at 0, expected to take 40 ms, and is silent; b is five times slower, and idle.
LATENCY = latencies(a={100: (0.01, 0.0)}, b={100: (0.05, 0.0)})
FLEET = [fleet_server("a", held=((100, 4, 0.0),)), fleet_server("b")]


def server_of(policy: str, now_s: float) -> str:
    queue = QueueState(1, 1, 10.0, 10.0, WIDTHS)
    candidates = build_candidates(FLEET, queue, LATENCY, now_s=now_s, slack_margin=1.25)
    decision = parse_policy(policy).choose(candidates, Situation(queue, now_s, 0, (0.0, 0.0), 1.25))
    assert isinstance(decision, Dispatch)
    return decision.candidate.server


@pytest.mark.parametrize(
    ("now_s", "lert", "lect"),
    [
        (0.00, "a", "a"),  # 50 ms on either; a is first by name
        (0.03, "a", "a"),
        (0.06, "a", "a"),  # 20 ms more, 10 of its own, times 1.2: 36 ms
        (0.07, "a", "b"),  # 40 ms as they stand, times 1.4 is more than 50
        (0.079, "a", "b"),
        (0.09, "b", "b"),
    ],
)
def test_silence_counts_sooner_than_the_time_that_has_passed(now_s: float, lert: str, lect: str) -> None:
    assert server_of("lert", now_s) == lert
    assert server_of("lect", now_s) == lect


def corrected(*candidates: Candidate) -> list[Candidate]:
    rows = new_table(col.ROW_FIELDS, len(candidates))
    for row, candidate in enumerate(candidates):
        write_candidate(rows, row, candidate, row, 0)
    stretch_overdue(rows, len(candidates))
    return [read_candidate(rows, row, [ServerName(c.server) for c in candidates]) for row in range(len(candidates))]


def test_all_times_of_the_silent_server_are_stretched_and_those_of_others_left_alone() -> None:
    queue = QueueState(3, 1, 10.0, 10.0, WIDTHS)
    a, b = build_candidates(FLEET, queue, LATENCY, now_s=0.1, slack_margin=1.25)
    slower_a, same_b = corrected(a, b)
    assert same_b == b
    assert slower_a.completion_s == pytest.approx(2 * (0.06 + 0.01 * a.items))
    assert slower_a.head_completion_s == pytest.approx(2 * 0.07)
    assert slower_a.with_items(1).completion_s == pytest.approx(2 * 0.07)
    assert slower_a.service_s == pytest.approx(2 * a.service_s)
    assert slower_a.capacity_rps == pytest.approx(a.capacity_rps / 2)
    assert (slower_a.drain_s, slower_a.items, slower_a.has_room) == (a.drain_s, a.items, a.has_room)
    assert corrected(slower_a) == [slower_a]
