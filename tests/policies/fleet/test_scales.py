"""What the scale of a family's qualities changes of decisions, and what it does not; docs/policies.md says the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.decision import Decision, Dispatch, Hold
from orchestrator.errors import UntrustedError
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preferred import PreferredPolicy
from orchestrator.policies.protocol import ObservingPolicy, Policy, Situation
from orchestrator.policies.registry import has_width_rule, policy_names
from orchestrator.policies.tables.memory import Memory
from orchestrator.profile.fit import EnergyLine, EnergySource, EnergyTable
from orchestrator.snapshot import Preference, QueueState
from tests.policies.fleets import WIDTHS, fleet_server, fleets, latencies, queues
from tests.policies.test_every_policy import MARGIN, Fleet

WIDTH_RULES = ("widest", "narrowest", "slack", "reserve", "brownout")
RULES: list[Policy] = [
    *(parse_policy(f"{name}:{width}") for name in policy_names() if has_width_rule(name) for width in WIDTH_RULES),
    *(parse_policy(name) for name in policy_names() if not has_width_rule(name)),
    parse_policy("thrift:brownout"),
    PreferredPolicy(),
]
LEARNED: list[Policy] = [parse_policy("ppo-slim")]
IN_SHARES = {"thrift", "thrift:brownout", "ppo-slim"}
"""Policies that weigh accuracy against joules at a price in shares."""
BY_GAIN = {*IN_SHARES, "fluid-lp", "proteus-lp", *(p.name for p in RULES if p.name.endswith(":brownout"))}
"""Policies that count how much more accurate a width is, not only that it is."""

steps = st.lists(st.integers(1, 20), min_size=4, max_size=4).map(lambda given: tuple(accumulate(given)))
"""Qualities in some unit, rising with width."""


@st.composite
def heads(draw: st.DrawFn) -> QueueState:
    return replace(draw(queues()), min_accuracy=0.0)


def decisions(
    policy: Policy, fleet: Fleet, queue: QueueState, qualities: Sequence[float], *, launch_j: float = 40.0
) -> list[object]:
    """What a policy decides: at first, after a request was missed, and when the ceiling of a brownout may rise."""
    by_width = dict(zip(WIDTHS, qualities, strict=True))
    states = [
        replace(state, models=tuple(replace(m, accuracy=by_width[m.width]) for m in state.models)) for state in fleet[0]
    ]
    energy = EnergyTable(
        {
            (state.name, m.name): EnergyLine(
                per_item_j=m.width * (1.0 + at), fixed_j=launch_j, source=EnergySource.RAPL
            )
            for at, state in enumerate(states)
            for m in state.models
        }
    )
    tables, memory, made = FleetTables(states, fleet[1], energy), Memory(), []
    for now_s in (0.0, 0.1, 1.4, 1.7, 2.0):
        later = replace(
            queue,
            head_deadline_s=queue.head_deadline_s + now_s,
            tail_deadline_s=queue.tail_deadline_s + now_s,
            allowed_widths=WIDTHS if now_s == 1.4 else queue.allowed_widths,
        )
        situation = Situation(later, now_s, 3, (0.3, 0.6), MARGIN, memory)
        memory.arrange([state.name for state in sorted(states, key=lambda state: state.name)], WIDTHS)
        try:
            made.append(what_is_done(policy.choose(tables.candidates(situation), situation)))
        except UntrustedError as error:  # of what else there is to be seen, which no scale changes
            made.append(str(error))
        if now_s == 0 and isinstance(policy, ObservingPolicy):
            policy.observe_miss(memory, now_s)
    return made


def what_is_done(decision: Decision) -> object:
    if isinstance(decision, Dispatch):
        return decision.candidate.server, decision.candidate.width, decision.candidate.items, decision.reason
    return (decision.reason, decision.until_s) if isinstance(decision, Hold) else decision.reason


@settings(deadline=None, max_examples=60)
@given(fleets(3), heads(), steps, st.sampled_from((0.25, 8.0, 1024.0)), st.booleans())
def test_the_unit_of_points_and_of_errors_changes_no_decision(
    fleet: Fleet, queue: QueueState, qualities: tuple[int, ...], unit: float, is_error: bool
) -> None:
    points = [quality - 100.0 if is_error else quality + 4.0 for quality in qualities]  # beyond 1 in any unit
    for policy in (*RULES, *LEARNED):
        in_unit = [quality * unit for quality in points]
        assert decisions(policy, fleet, queue, points) == decisions(policy, fleet, queue, in_unit)


@settings(deadline=None, max_examples=60)
@given(fleets(3), heads(), steps)
def test_shares_and_per_cent_are_decided_alike_by_whatever_does_not_pay_in_shares(
    fleet: Fleet, queue: QueueState, qualities: tuple[int, ...]
) -> None:
    for policy in RULES:
        if policy.name not in IN_SHARES:
            shares = [quality / 128 for quality in qualities]
            in_points = [100 * share for share in shares]
            assert decisions(policy, fleet, queue, shares) == decisions(policy, fleet, queue, in_points)


@settings(deadline=None, max_examples=60)
@given(fleets(3), heads(), steps, steps)
def test_most_policies_count_only_which_width_is_better(
    fleet: Fleet, queue: QueueState, qualities: tuple[int, ...], others: tuple[int, ...]
) -> None:
    for policy in RULES:
        if policy.name not in BY_GAIN and policy.name != "preferred":
            one = decisions(policy, fleet, queue, [quality / 100 for quality in qualities])
            assert one == decisions(policy, fleet, queue, [quality - 40.0 for quality in others])


@settings(deadline=None, max_examples=60)
@given(fleets(3), heads(), steps, st.integers(-100, 100), st.sampled_from((0.5, 1.0, 16.0)))
def test_a_preference_is_weighed_by_where_a_quality_lies_in_the_familys_range(
    fleet: Fleet, queue: QueueState, qualities: tuple[int, ...], shift: int, unit: float
) -> None:
    asked, policy = replace(queue, preference=Preference(0.5, 0.2, 0.3)), PreferredPolicy()
    moved = [quality * unit + shift for quality in qualities]
    assert decisions(policy, fleet, asked, [q / 128 for q in qualities]) == decisions(policy, fleet, asked, moved)


@pytest.mark.parametrize("name", sorted(IN_SHARES - {"thrift:brownout"}))  # whose ceiling falls and rises here
@pytest.mark.parametrize(
    ("qualities", "width"),
    [
        ((0.3, 0.5, 0.7, 0.9), 100),
        ((30, 50, 70, 90), 100),
        ((91.2, 91.24, 91.27, 91.3), 25),
        ((0.1, 0.13, 0.16, 0.2), 25),  # ten points for which the joules of the widest are too dear
        ((10, 13, 16, 20), 100),  # the same in points: half of all that there is
    ],
)
def test_what_pays_in_shares_runs_wide_where_width_gains_much_of_the_scale(
    name: str, qualities: Sequence[float], width: int
) -> None:
    fleet = [fleet_server("a", WIDTHS)], latencies(a={width: (0.0001 * width, 0.001) for width in WIDTHS})
    asked = QueueState(1, 1, 1.0, 1.0, WIDTHS, head_arrived_s=0.0)
    decided = decisions(parse_policy(name), fleet, asked, qualities, launch_j=0.0)
    assert {seen[1] for seen in decided if isinstance(seen, tuple) and len(seen) == 4} == {width}
