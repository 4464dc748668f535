"""Evolution finds knobs where the defaults are wrong, repeats itself, and goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from itertools import count

import pytest

from orchestrator.evaluation.tuning.space import SEARCHED, default_point, spec_at, tuned_policies
from orchestrator.learning.evolution import PORTFOLIO, Evolved, Rung, best_rule, evolve, run_all
from orchestrator.learning.judging import paired
from orchestrator.policies.learned.decide import parse_base
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding
from orchestrator.policies.registry import parse_policy as parse_rule
from orchestrator.policies.registry import policy_names
from orchestrator.policies.rule import CORRECTS_STALE
from tests.learning.worlds import WASTEFUL, costly_traffic

TRAFFIC = costly_traffic()
RUNGS = 3
MARGINS = (",slack_margin=1", ",slack_margin=1.6", ",slack_margin=2.2")


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def found(
    pool: ThreadPoolExecutor, generations: int, *, portfolio: tuple[str, ...] = ("thrift",), **more: object
) -> Evolved:
    """What evolution finds in so many generations a rung: a second passes at each look at the clock."""
    ticks = count()
    seconds = 2 * RUNGS * generations
    return evolve(  # type: ignore[arg-type]
        TRAFFIC.task,
        TRAFFIC.fit,
        seconds=seconds,
        seed=0,
        pool=pool,
        portfolio=portfolio,
        clock=lambda: next(ticks),
        **more,
    )


def test_knobs_become_better_than_their_defaults(pool: ThreadPoolExecutor) -> None:
    specs = ("achq:100", found(pool, 2, portfolio=("achq:100",)).specs[0])
    before, after = run_all(TRAFFIC.task, [parse_policy(spec) for spec in specs], TRAFFIC.held_out(), pool)
    assert paired(after, before).low > 0


def test_the_same_seed_finds_the_same_and_an_interrupted_search_goes_on_where_it_was(pool: ThreadPoolExecutor) -> None:
    histories: list[list[Rung]] = []
    rules = ("thrift", "lert:100", WASTEFUL)
    whole = found(pool, 2, portfolio=rules, keep=lambda history: histories.append(deepcopy(history)))
    assert found(pool, 2, portfolio=rules) == whole
    assert whole.generations == len(histories) == 2 * RUNGS
    for generations, spent_s in ((1, 0), (2, 2), (3, 2), (5, 4)):
        resumed = found(pool, 2, portfolio=rules, history=histories[generations - 1], spent_s=spent_s)
        assert replace(resumed, runs=0) == replace(whole, runs=0)
        assert resumed.runs < whole.runs


def test_the_worse_half_leaves_after_each_part_of_the_time(pool: ThreadPoolExecutor) -> None:
    histories: list[list[Rung]] = []
    evolved = found(pool, 1, portfolio=PORTFOLIO, keep=histories.append)
    assert [len(histories[-1][0][0][0]), *map(len, (rung[0][0] for rung in histories[-1][1:]))] == [
        len(PORTFOLIO),
        8,
        4,
    ]
    assert [len(generation) for rung in histories[-1] for generation in rung[1:]] == [8, 4, 2]
    assert evolved.specs[0].partition(",")[0] == "thrift"
    for spec in evolved.specs:
        assert parse_rule(spec).slack_margin is not None


def test_every_rule_that_can_be_a_base_is_tried() -> None:
    drawn = {"random", "random-batch"}
    late = {name for name in policy_names() if parse_rule(name).binding is Binding.LATE} - drawn
    assert {spec.partition(":")[0] for spec in PORTFOLIO} == {
        name for name in late if parse_rule(name).numbers[CORRECTS_STALE] == 0
    }
    for spec in PORTFOLIO:
        parse_base(spec)


def test_of_rules_that_do_the_same_one_is_evolved(pool: ThreadPoolExecutor) -> None:
    histories: list[list[Rung]] = []
    evolved = found(pool, 1, portfolio=("lert:narrowest", "lert:25", "lert:100"), keep=histories.append)
    [[narrowest, fixed, widest]] = histories[-1][0][0]
    assert narrowest == fixed > widest
    assert {spec.partition(",")[0] for spec in evolved.specs} == {"lert:narrowest", "lert:100"}


def test_the_best_rule_is_the_one_with_most_utility_whatever_its_margin(pool: ThreadPoolExecutor) -> None:
    specs = [f"{rule}{margin}" for rule in ("lert:100", "lert:slack") for margin in ("", *MARGINS)]
    utilities = run_all(TRAFFIC.task, [parse_policy(spec) for spec in specs], list(map(TRAFFIC.fit, range(8))), pool)
    best = best_rule(TRAFFIC.task, TRAFFIC.fit, pool, portfolio=("lert:100", "lert:slack"))
    assert utilities[specs.index(best)].mean() == max(utilities.mean(axis=1))
    assert best != "lert:slack", "the margin counts here"


@pytest.mark.parametrize("policy", tuned_policies())
def test_a_point_and_its_spec_are_of_the_policy_itself(policy: str) -> None:
    point = default_point(policy)
    assert all(0 <= part <= 1 for part in point)
    default, at_default = parse_rule(policy), parse_rule(spec_at(policy, point))
    inside = [
        (own, other)
        for own, other in zip(default.numbers.tolist(), at_default.numbers.tolist(), strict=True)
        if own == 0 or min(low for low, _ in SEARCHED.values()) <= own <= 100
    ]
    assert all(other == pytest.approx(own, rel=0.01, abs=0.01) for own, other in inside if own <= 1)
    assert at_default.slack_margin == pytest.approx(1.25, rel=0.01)
