"""Preferences: what may be written, and what is chosen by them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.policies.preference import parse_preference
from orchestrator.policies.preferred import PreferredPolicy
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable
from orchestrator.snapshot import Preference, QueueState, ServerName, Width
from tests.policies.fleets import build_candidates, fleet_server, latencies, model_name
from tests.policies.test_policies import WIDTHS, candidate


def chosen(preference: str, candidates: list[object], *, slack_s: float = 0.1, tail_s: float = 0.1) -> tuple[str, int]:
    queue = QueueState(1, 1, slack_s, tail_s, WIDTHS, preference=parse_preference(preference))
    decision = PreferredPolicy().choose(candidates, Situation(queue, 0.0, 0, (0.0, 0.0), 1.0))  # type: ignore[arg-type]
    assert isinstance(decision, Dispatch)
    return decision.candidate.server, decision.candidate.width


# Answers after 80, 20 and 40 ms for 8, 5 and 1 joules.
OPTIONS = [
    candidate("big", 100, completion_s=0.08, accuracy=0.92, per_item_j=8.0, fixed_j=0.0),
    candidate("fast", 50, completion_s=0.02, accuracy=0.90, per_item_j=5.0, fixed_j=0.0),
    candidate("frugal", 25, completion_s=0.04, accuracy=0.84, per_item_j=0.5, fixed_j=0.5),
]


@pytest.mark.parametrize(
    ("preference", "server"),
    [
        ("accuracy", "big"),
        ("latency", "fast"),
        ("energy", "frugal"),
        # 1/3 each: big 1 − 0.8 − 1, fast 0.75 − 0.2 − 4/7, frugal 0 − 0.4 − 0.
        ("balanced", "fast"),
        # big 0.6 − 0.4·1, fast 0.6·0.75 − 0.4·4/7 = 0.221, frugal 0.
        ("accuracy=0.6,energy=0.4", "fast"),
        ("accuracy=0.7,energy=0.3", "big"),  # 0.4 against 0.354
    ],
)
def test_weights_decide_among_what_is_in_time(preference: str, server: str) -> None:
    assert chosen(preference, OPTIONS)[0] == server


def test_deadlines_come_first() -> None:
    assert chosen("accuracy", OPTIONS, slack_s=0.05)[0] == "fast"
    assert chosen("energy", OPTIONS, slack_s=0.03)[0] == "fast"


def test_the_queue_behind_must_drain_in_time_too() -> None:
    options = [candidate("a", w, completion_s=0.01, drain_s=w / 100) for w in WIDTHS]
    assert chosen("accuracy", options, tail_s=0.6) == ("a", 50)
    assert chosen("accuracy", options, tail_s=0.1) == ("a", 25)  # none drains, so what drains first


def test_unknown_energy_is_left_out_and_is_the_dearest_where_some_is_known() -> None:
    unknown = [candidate("a", 100, completion_s=0.02), candidate("b", 25, completion_s=0.01)]
    assert chosen("energy", unknown) == ("a", 100)  # nothing to weigh: the wider
    assert chosen("energy=0.9,latency=0.1", unknown) == ("b", 25)
    known = candidate("c", 50, per_item_j=99.0, fixed_j=0.0)
    assert chosen("energy", [*unknown, known]) == ("c", 50)
    cheap, dear = candidate("c", 50, per_item_j=1.0, fixed_j=0.0), candidate("d", 75, per_item_j=2.0, fixed_j=0.0)
    assert chosen("energy", [*unknown, cheap, dear]) == ("c", 50)


def test_a_better_one_that_is_busy_is_waited_for_while_it_is_in_time() -> None:
    busy = candidate("a", 100, completion_s=0.05, has_room=False)
    queue = QueueState(1, 1, 0.1, 0.1, WIDTHS, preference=parse_preference("accuracy"))
    situation = Situation(queue, 0.0, 0, (0.0, 0.0), 1.0)
    assert PreferredPolicy().choose([busy, candidate("b", 25)], situation) == Hold(Reason.BETTER_SERVER_BUSY)
    assert PreferredPolicy().choose([], situation) == Hold(Reason.NO_CANDIDATE)
    assert PreferredPolicy().binding is Binding.LATE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy", (1, 0, 0)),
        ("energy", (0, 0, 1)),
        ("accuracy=0.5,latency=0.3,energy=0.2", (0.5, 0.3, 0.2)),
        (" latency = 3 , accuracy=1", (0.25, 0.75, 0)),
        ("energy=1e308,latency=1e308", (0, 0.5, 0.5)),
    ],
)
def test_a_preference_is_written_as_a_word_or_as_weights(text: str, expected: tuple[float, float, float]) -> None:
    found = parse_preference(text)
    assert (found.accuracy, found.latency, found.energy) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    ["", "speed", "accuracy=", "accuracy=x", "accuracy=-1", "accuracy=nan", "energy=inf", "energy=1,energy=2",
     "accuracy=0,energy=0", "accuracy=1,,energy=1", "Accuracy"],
)  # fmt: skip
def test_what_is_no_preference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"preference|weighs nothing"):
        parse_preference(text)


@given(st.text() | st.lists(st.tuples(st.sampled_from(("accuracy", "latency", "energy")), st.floats())).map(
    lambda pairs: ",".join(f"{axis}={weight}" for axis, weight in pairs)))  # fmt: skip
def test_every_text_is_three_weights_that_add_up_or_is_refused(text: str) -> None:
    try:
        found = parse_preference(text)
    except ConfigError:
        return
    weights = (found.accuracy, found.latency, found.energy)
    assert min(weights) >= 0
    assert math.isclose(sum(weights), 1)
    assert isinstance(found, Preference)


def test_candidates_know_their_joules_and_keep_the_heads_bound() -> None:
    line = EnergyLine(per_item_j=2.0, fixed_j=4.0, source=EnergySource.RAPL)
    energy = EnergyTable({(ServerName("a"), model_name(25)): line})
    fleet = [fleet_server("a", (25, 50)), fleet_server("b", (25,))]
    latency = latencies(a={25: (0.001, 0.0), 50: (0.002, 0.0)}, b={25: (0.001, 0.0)})

    def offered(max_per_item_j: float | None, head_items: int = 1) -> dict[tuple[str, int], float | None]:
        queue = QueueState(3, head_items, 1.0, 1.0, WIDTHS, max_per_item_j=max_per_item_j)
        found = build_candidates(fleet, queue, latency, now_s=0.0, slack_margin=1.0, energy=energy)
        return {(c.server, c.width): c.energy_j for c in found}

    assert offered(None) == {("a", Width(25)): 2.0 * 3 + 4.0, ("a", Width(50)): None, ("b", Width(25)): None}
    assert offered(6.0) == {("a", 25): 10.0}  # alone it would cost 6 J; the others cost nobody knows what
    assert offered(5.9) == {}
    assert offered(4.0, head_items=2) == {("a", 25): 10.0}
