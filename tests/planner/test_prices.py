from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
from orchestrator.planner.state import KEPT_PRICE_RATIO, Prices
from orchestrator.snapshot import ModelName

kinds = st.sampled_from(list(ActionKind))
durations = st.floats(0.001, 100)


def outcome(kind: ActionKind, took_s: float, *, began_s: float = 0.0, error: str | None = None) -> Outcome:
    action = Action(kind, ModelName("m"), ActionReason.WANTED, instances=1)
    return Outcome(action, began_s, began_s + took_s, error)


def recorded(kind: ActionKind, durations_s: list[float]) -> Prices:
    prices = Prices()
    for took_s in durations_s:
        prices = prices.record(outcome(kind, took_s))
    return prices


@pytest.mark.parametrize("kind", list(ActionKind))
def test_every_kind_has_a_price_before_it_was_ever_measured(kind: ActionKind) -> None:
    assert Prices().price_s(kind) > 0


def test_a_change_in_place_is_expected_to_be_the_cheapest_way_to_more() -> None:
    prices = Prices()
    assert prices.price_s(ActionKind.SCALE_UP) < prices.price_s(ActionKind.RELOAD)
    assert prices.price_s(ActionKind.SCALE_UP) < prices.price_s(ActionKind.LOAD)


def test_the_first_measurement_replaces_the_assumption_and_later_ones_move_it() -> None:
    assert recorded(ActionKind.RELOAD, [4.0]).price_s(ActionKind.RELOAD) == 4.0
    assert recorded(ActionKind.RELOAD, [4.0, 2.0]).price_s(ActionKind.RELOAD) == pytest.approx(0.7 * 4 + 0.3 * 2)


@settings(deadline=None, max_examples=50)
@given(kinds, st.lists(durations, min_size=1, max_size=20))
def test_a_price_is_the_weighted_mean_of_what_was_measured(kind: ActionKind, took_s: list[float]) -> None:
    last = len(took_s) - 1
    weights = [KEPT_PRICE_RATIO**last] + [
        (1 - KEPT_PRICE_RATIO) * KEPT_PRICE_RATIO ** (last - i) for i in range(1, last + 1)
    ]
    assert sum(weights) == pytest.approx(1)
    expected_s = sum(w * s for w, s in zip(weights, took_s, strict=True))
    price_s = recorded(kind, took_s).price_s(kind)
    assert price_s == pytest.approx(expected_s)
    assert min(took_s) * (1 - 1e-9) <= price_s <= max(took_s) * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(kinds, durations, durations)
def test_a_price_follows_a_host_that_became_slower_or_faster(kind: ActionKind, old_s: float, new_s: float) -> None:
    price_s = recorded(kind, [old_s] * 10 + [new_s] * 13).price_s(kind)
    assert abs(price_s - new_s) <= 0.01 * abs(old_s - new_s) + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(kinds, durations), max_size=20))
def test_kinds_do_not_mix(measured: list[tuple[ActionKind, float]]) -> None:
    prices = Prices()
    for kind, took_s in measured:
        prices = prices.record(outcome(kind, took_s))
    for kind in ActionKind:
        alone = recorded(kind, [took_s for other, took_s in measured if other is kind])
        assert prices.price_s(kind) == alone.price_s(kind)


def test_a_failure_has_no_price_and_nothing_is_changed_in_place() -> None:
    before = recorded(ActionKind.LOAD, [2.0])
    assert before.record(outcome(ActionKind.LOAD, 60.0, error="timeout")) == before
    before.record(outcome(ActionKind.LOAD, 60.0))
    assert before.price_s(ActionKind.LOAD) == 2.0


def test_only_the_difference_of_the_two_times_counts() -> None:
    late = Prices().record(outcome(ActionKind.UNLOAD, 0.25, began_s=1e6))
    assert late.price_s(ActionKind.UNLOAD) == pytest.approx(0.25)
