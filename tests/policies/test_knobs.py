from __future__ import annotations

import pytest

from orchestrator.decision import Dispatch
from orchestrator.errors import ConfigError
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.knobs import FIRST_KNOB, OF_SERVERS
from orchestrator.policies.parsing import knobs_of, parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.registry import policy_names
from orchestrator.snapshot import QueueState, Width
from tests.policies.fleets import decide, fleet_server, latencies


def test_a_knob_of_servers_goes_on_with_its_last_number() -> None:
    numbers = parse_policy("achq:slack,theta=4/8,temperature=2").numbers
    assert [numbers[FIRST_KNOB + at] for at in range(OF_SERVERS + 1)] == [4.0] + [8.0] * (OF_SERVERS - 1) + [2.0]


def test_a_knob_that_is_not_given_has_its_default() -> None:
    numbers = parse_policy("clipper-aimd,step=2").numbers
    assert (numbers[FIRST_KNOB], numbers[FIRST_KNOB + 1]) == (2.0, 0.9)


@pytest.mark.parametrize("name", [*policy_names(), "lert:brownout", "achq:brownout", "thrift:brownout"])
def test_every_default_may_be_written_and_changes_nothing(name: str) -> None:
    knobs = knobs_of(name)
    written = ",".join([name, *(f"{k.name}={k.default:g}" for k in knobs)])
    plain, spelt = parse_policy(name).numbers, parse_policy(written).numbers
    assert list(plain) == list(spelt)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("achq,thta=4", "'thta=4' is no knob of it; known, each once: theta (-1000 to 1000, else 1), temperature"),
        ("achq,theta=1,theta=2", "'theta=2' is no knob of it"),
        (
            "achq,theta=fast",
            "theta=fast is not allowed; give a number from -1000 to 1000, or up to 8 such with / between",
        ),
        ("achq,temperature=1/2", "temperature=1/2 is not allowed; give a number from 0.001 to 1000"),
        ("clipper-aimd,backoff=1.5", "backoff=1.5 is not allowed"),
        ("control-limit,limit=nan", "limit=nan is not allowed"),
        (
            "jsq:slack,theta=1",
            "'theta=1' is no knob of it; known, each once: slack_margin (1 to 10, else as the router's)",
        ),
        ("lert:slack,calm_s=2", "'calm_s=2' is no knob of it"),
        ("thrift:slack", "thrift chooses the width itself and takes nothing but brownout after a colon"),
        ("lert,slack_margin=0.9", "slack_margin=0.9 is not allowed; give a number from 1 to 10"),
    ],
)
def test_what_can_not_be_set_is_refused_with_what_can(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_policy(name)
    assert said in str(refused.value)


def test_a_policy_may_have_a_slack_margin_of_its_own() -> None:
    plain, own = parse_policy("lert:slack"), parse_policy("lert:slack,slack_margin=3")
    assert (plain.slack_margin, own.slack_margin) == (None, 3.0)
    assert list(plain.numbers) == list(own.numbers)  # type: ignore[call-overload]
    # One item takes 10 ms at full width and 4 ms at half; 20 ms are left.
    latency = latencies(a={50: (0.004, 0.0), 100: (0.01, 0.0)})
    queue = QueueState(1, 1, 0.02, 0.02, (Width(50), Width(100)))
    situation = Situation(queue, now_s=0.0, turn=0, uniforms=(0.0, 0.0), slack_margin=1.0)
    states = [fleet_server("a", (50, 100))]
    for policy, width in ((plain, 100), (own, 50)):
        tables = FleetTables(states, latency)
        for decision in (decide(tables, policy, situation), policy.choose(tables.candidates(situation), situation)):
            assert isinstance(decision, Dispatch)
            assert decision.candidate.width == width
