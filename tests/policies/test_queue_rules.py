"""Rules of the queue that are numbers alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.queue_rules import slack_used
from orchestrator.policies.registry import RulePolicy
from orchestrator.profile.fit import LatencyTable
from orchestrator.profile.margin import Margin
from orchestrator.snapshot import QueueState, ServerName, Width
from tests.policies.fleets import fleet_server, line, model_name


def candidates(margin: float, arrived_s: float | None = 0.0) -> CandidateSet:
    """Return what an idle server with that margin offers a head that has 100 ms, of which a batch takes 10."""
    fit = replace(line(0.0, 0.01), margin=Margin(math.log(margin), 0.01, 0.0, observed_s=0.0))
    tables = FleetTables([fleet_server("a")], LatencyTable({(ServerName("a"), model_name(100)): fit}))
    queue = QueueState(1, 1, 0.1, 0.1, (Width(100),), head_arrived_s=arrived_s)
    return CandidateSet(tables, Situation(queue, now_s=0.0, turn=0, uniforms=(0.0, 0.0), slack_margin=1.25), ())


def test_a_margin_adds_no_more_than_a_quarter_of_the_deadline_to_what_a_head_is_given_up_by() -> None:
    assert candidates(2.0).least.soonest_s == pytest.approx(0.02)
    found = candidates(8.0)
    assert found.least.soonest_s == found.least_answer_s(1, -1.0, False) == pytest.approx(0.01 + 0.25 * 0.1)
    assert found.least.fastest_s == pytest.approx(0.01 + 0.25 * 0.1)
    assert found.least_answer_s(1, -1.0, True) == pytest.approx(1.25 * found.least.soonest_s)
    assert candidates(8.0, arrived_s=None).least.soonest_s == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("policy", "takes_s"),
    [
        ("lert:slack", 0.01),
        ("lert:narrowest", 0.01),
        ("lert:25", 0.01),
        ("lert:75", 0.04),  # the nearest that there is
        ("round-robin:100", 0.04),
        ("lert:widest", 0.04),
        ("lert:brownout", 0.01),
        ("thrift", 0.01),
    ],
)
def test_who_always_takes_one_width_gives_up_by_that_width_alone(policy: str, takes_s: float) -> None:
    fits = {(ServerName("a"), model_name(width)): line(0.0, 0.01 * width / 25) for width in (25, 100)}
    tables = FleetTables([fleet_server("a", widths=(25, 100))], LatencyTable(fits))
    queue = QueueState(100, 1, 0.1, 0.1, (Width(25), Width(100)), head_arrived_s=0.0)
    asked = parse_policy(policy)
    assert isinstance(asked, RulePolicy)
    situation = Situation(queue, 0.0, 0, (0.0, 0.0), 1.25, only_width=asked.only_width)
    found = CandidateSet(tables, situation, ())
    assert found.least.fastest_s == found.least.soonest_s == pytest.approx(1.25 * takes_s)
    assert found.least_answer_s(1, -1.0, False) == pytest.approx(1.25 * takes_s)
    assert found.soonest_s() == pytest.approx({ServerName("a"): takes_s})
    assert found.least.most_rps == pytest.approx(32 / takes_s)


@pytest.mark.parametrize(
    ("elapsed_s", "allowed_s", "service_s", "used"),
    [
        (0.02, 0.1, 0.02, 0.0),  # as soon as could be
        (0.06, 0.1, 0.02, 0.5),
        (0.1, 0.1, 0.02, 1.0),
        (0.01, 0.1, 0.02, 0.0),  # sooner than was expected
        (0.099, 0.1, 0.095, 0.0),  # there was nothing to spare
        (0.101, 0.1, 0.095, math.inf),
        (0.101, 0.1, 5.0, 0.0),  # nobody could have kept it
    ],
)
def test_what_a_request_used_is_of_the_time_that_its_batch_leaves(
    elapsed_s: float, allowed_s: float, service_s: float, used: float
) -> None:
    assert slack_used(elapsed_s, allowed_s, service_s) == pytest.approx(used)


@given(st.floats(0, 10), st.floats(0.001, 10), st.floats(0, 10))
def test_who_is_late_has_used_all_of_it_and_who_is_not_has_not(
    elapsed_s: float, allowed_s: float, service_s: float
) -> None:
    used = slack_used(elapsed_s, allowed_s, service_s)
    assert used >= 0
    is_late = elapsed_s > allowed_s and service_s < allowed_s
    assert (used > 1) == is_late or elapsed_s == pytest.approx(allowed_s)
