from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.planner.actions import ActionReason
from orchestrator.planner.host import Batching, Limits
from orchestrator.planner.scaling.batching import (
    HEADROOM_RATIO,
    NO_DELAY,
    Demand,
    choose_batching,
    forecast,
    plan_batching,
)

LIMITS = Limits(memory_budget_bytes=1 << 30, minimum=())
DEMAND = Demand(per_item_s=0.001, batch_s=0.004, items_per_s=200.0, request_items=1.0, instances=1, max_batch_size=32)

batchings = st.builds(
    Batching,
    st.sampled_from([(), (2,), (4,), (8,), (32,), (128,)]),
    st.integers(0, 200_000),
)


def magnitudes(least: float, most: float) -> st.SearchStrategy[float]:
    """Evenly over the magnitudes; Hypothesis's floats would mostly be extremes, where no delay pays."""
    grid = [least * (most / least) ** (part / 40) for part in range(41)]
    return st.builds(lambda value, jitter: value * jitter, st.sampled_from(grid), st.floats(1, 1.1))


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """From next to nothing to twice what the instances can do one item at a time; sometimes nothing at all."""
    per_item_s, batch_s = draw(magnitudes(1e-5, 0.01)), draw(st.one_of(magnitudes(5e-4, 0.03), magnitudes(1e-6, 0.03)))
    instances = draw(st.integers(1, 4))
    load = draw(st.one_of(magnitudes(0.2, 1.0), magnitudes(0.2, 1.0), magnitudes(1e-6, 2.0), st.just(0.0)))
    return Demand(
        per_item_s=per_item_s,
        batch_s=batch_s,
        items_per_s=load * instances / (per_item_s + batch_s),
        request_items=draw(st.sampled_from([1.0, 1.0, 1.0, 1.5, 3.0, 8.0, 100.0])),
        instances=instances,
        max_batch_size=draw(st.sampled_from([64, 32, 32, 8, 6, 2, 1])),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    return replace(
        LIMITS,
        deadline_budget_s=draw(magnitudes(0.02, 0.5)),
        batching_saving_ratio=draw(st.sampled_from([0.05, 0.0, 0.01, 0.3])),
        batching_horizon_s=draw(magnitudes(1, 600)),
    )


def test_a_forecast_without_delay_of_a_lightly_loaded_instance() -> None:
    demand = replace(DEMAND, items_per_s=10.0)
    seen = forecast(demand, NO_DELAY)
    assert seen.busy_instances == pytest.approx(10 * 0.005)
    assert seen.latency_s == pytest.approx(0.005 * 1.05)  # its own run, and what runs before it one time in twenty


def test_a_forecast_with_delay_shares_the_fixed_part() -> None:
    # 1 + 200 · 0.015 = 4 items gather, and none waits longer than the third takes to come.
    seen = forecast(DEMAND, Batching((4,), 15_000))
    assert seen.busy_instances == pytest.approx(200 * (0.001 + 0.004 / 4))
    assert seen.latency_s == pytest.approx(0.015 + 0.008 * 1.4)


def test_the_preferred_size_ends_the_wait() -> None:
    assert forecast(DEMAND, Batching((4,), 900_000)) == forecast(DEMAND, Batching((4,), 15_000))


def test_a_queue_behind_busy_instances_forms_batches_by_itself() -> None:
    # 600 · (0.001 n + 0.004) = n has n = 6, so the only instance is just busy with batches of 6.
    demand = replace(DEMAND, items_per_s=600.0)
    assert forecast(demand, NO_DELAY).busy_instances == pytest.approx(1.0)
    # Beyond what any batch size can do, the largest.
    demand = replace(DEMAND, items_per_s=5000.0)
    assert forecast(demand, NO_DELAY).busy_instances == pytest.approx(5000 * (0.001 + 0.004 / 32))
    assert forecast(demand, NO_DELAY).latency_s == pytest.approx(2 * 0.036)  # never more than one batch runs before it


@settings(deadline=None, max_examples=100)
@given(demands(), batchings)
def test_forecasts_are_finite_and_a_delay_never_costs_instance_time(demand: Demand, batching: Batching) -> None:
    plain, seen = forecast(demand, NO_DELAY), forecast(demand, batching)
    assert all(math.isfinite(value) for value in (seen.busy_instances, seen.latency_s))
    assert 0 <= seen.busy_instances <= plain.busy_instances * (1 + 1e-12)
    # Never less than the items alone, or all in the largest batches; never more than one batch an item.
    least = demand.items_per_s * (demand.per_item_s + demand.batch_s / demand.max_batch_size)
    most = demand.items_per_s * (demand.per_item_s + demand.batch_s)
    assert least * (1 - 1e-12) <= seen.busy_instances <= most * (1 + 1e-12)
    # Its own run of at least one item, and at most all of the delay and two runs of the largest batch.
    longest_s = demand.per_item_s * demand.max_batch_size + demand.batch_s
    assert demand.per_item_s + demand.batch_s <= seen.latency_s * (1 + 1e-12)
    assert seen.latency_s <= (batching.delay_us / 1e6 + 2 * longest_s) * (1 + 1e-12)


@settings(deadline=None, max_examples=60)
@given(demands(), st.sampled_from([(), (4,), (16,)]), st.integers(0, 100_000), st.integers(0, 100_000))
def test_a_longer_delay_gathers_no_less(demand: Demand, sizes: tuple[int, ...], one_us: int, two_us: int) -> None:
    shorter, longer = (forecast(demand, Batching(sizes, us)) for us in sorted((one_us, two_us)))
    assert longer.busy_instances <= shorter.busy_instances * (1 + 1e-12)


@settings(deadline=None, max_examples=100)
@given(demands(), batchings, st.integers(2, 1000))
def test_the_unit_of_time_cancels(demand: Demand, batching: Batching, scale: int) -> None:
    slower = replace(
        demand,
        per_item_s=demand.per_item_s * scale,
        batch_s=demand.batch_s * scale,
        items_per_s=demand.items_per_s / scale,
    )
    # Where the load is all but what the instances can do, rounding decides between a long queue and an endless one.
    assume(abs(demand.instances - demand.items_per_s * demand.per_item_s) > 1e-6)
    before, after = forecast(demand, batching), forecast(slower, replace(batching, delay_us=batching.delay_us * scale))
    assert after.busy_instances == pytest.approx(before.busy_instances, rel=1e-6)
    assert after.latency_s == pytest.approx(before.latency_s * scale, rel=1e-6)


@settings(deadline=None, max_examples=80)
@given(demands(), limits())
def test_what_is_chosen_keeps_every_promise(demand: Demand, limits: Limits) -> None:
    chosen = choose_batching(demand, limits)
    if chosen == NO_DELAY:
        return
    size = chosen.preferred_sizes[0] if chosen.preferred_sizes else demand.max_batch_size
    assert chosen.preferred_sizes != (demand.max_batch_size,)  # which is no preference to Triton
    assert demand.request_items < size <= demand.max_batch_size
    assert size & (size - 1) == 0 or size == demand.max_batch_size
    # The delay is what the missing items take to come, rounded to two digits of microseconds.
    missing_s = (size - demand.request_items) / demand.items_per_s
    assert chosen.delay_us == pytest.approx(missing_s * 1e6, rel=0.05, abs=1)
    assert len(str(chosen.delay_us).rstrip("0")) <= 2
    assert forecast(demand, chosen).latency_s <= HEADROOM_RATIO * limits.deadline_budget_s
    saved = forecast(demand, NO_DELAY).busy_instances - forecast(demand, chosen).busy_instances
    assert saved > limits.batching_saving_ratio * (1 - 1e-9)


def _by_hand(demand: Demand, size: int) -> tuple[float, float]:
    """Instance time and latency when ``size`` items gather: busy = λ(a + b/n), latency = wait + run · (1 + busy)."""
    rate, spare = demand.items_per_s, demand.instances - demand.items_per_s * demand.per_item_s
    formed = rate * demand.batch_s / spare if spare > 0 else math.inf
    batch = min(max(size, formed, demand.request_items), demand.max_batch_size)
    busy = rate * (demand.per_item_s + demand.batch_s / batch)
    wait_s = max(0.0, size - demand.request_items) / rate
    return busy, wait_s + (demand.per_item_s * batch + demand.batch_s) * (1 + min(1.0, busy / demand.instances))


@settings(deadline=None, max_examples=80)
@given(demands(), limits())
def test_no_power_of_two_would_have_been_clearly_better(demand: Demand, limits: Limits) -> None:
    assume(demand.items_per_s > 0)
    chosen = choose_batching(demand, limits)
    plain_busy, _ = _by_hand(demand, 1)
    chosen_busy, _ = _by_hand(
        demand, 1 if chosen == NO_DELAY else max(chosen.preferred_sizes, default=demand.max_batch_size)
    )
    for size in (2, 4, 8, 16, 32, 64):
        if not demand.request_items < size <= demand.max_batch_size:
            continue
        busy, latency_s = _by_hand(demand, size)
        # A delay rounded to two digits gathers up to a twentieth less or waits as much longer.
        if latency_s * 1.06 > HEADROOM_RATIO * limits.deadline_budget_s:
            continue
        if busy * 1.06 > plain_busy - limits.batching_saving_ratio:
            continue
        assert chosen != NO_DELAY
        assert chosen_busy <= busy * 1.06


def test_a_size_that_is_worth_it_is_found() -> None:
    # λ = 200: size 8 waits 35 ms and runs 12 ms; 16 would wait 75 ms, beyond 0.9 of the budget of 60 ms.
    limits = replace(LIMITS, deadline_budget_s=0.06)
    assert choose_batching(DEMAND, limits) == Batching((8,), 35_000)
    assert choose_batching(DEMAND, replace(limits, deadline_budget_s=0.03)) == Batching((4,), 15_000)
    assert choose_batching(DEMAND, replace(limits, deadline_budget_s=0.005)) == NO_DELAY


@settings(deadline=None, max_examples=100)
@given(demands(), limits())
def test_at_low_rates_there_is_no_delay(demand: Demand, limits: Limits) -> None:
    """All that batching can save is λ·b; where that is no real part of an instance there is nothing to wait for."""
    rate = 0.999 * limits.batching_saving_ratio / max(demand.batch_s, 1e-9)
    quiet = replace(demand, items_per_s=min(demand.items_per_s, rate))
    assert choose_batching(quiet, limits) == NO_DELAY


@pytest.mark.parametrize(
    "without_gain",
    [
        replace(DEMAND, items_per_s=0.0),
        replace(DEMAND, items_per_s=1e-9),
        replace(DEMAND, batch_s=0.0),
        replace(DEMAND, max_batch_size=1),
        replace(DEMAND, request_items=32.0),
        replace(DEMAND, request_items=200.0),  # longer requests than the model takes are split before they come
        replace(DEMAND, items_per_s=1e6),  # saturated: its queue forms the largest batches by itself
    ],
)
def test_where_nothing_can_be_saved_there_is_no_delay(without_gain: Demand) -> None:
    limits = replace(LIMITS, deadline_budget_s=10.0)
    assert choose_batching(without_gain, limits) == NO_DELAY
    assert plan_batching(without_gain, NO_DELAY, limits, reload_s=0.0) is None


@settings(deadline=None, max_examples=60)
@given(demands(), st.floats(0.001, 0.2), st.floats(0.001, 0.2))
def test_a_larger_deadline_budget_never_saves_less(demand: Demand, one_s: float, two_s: float) -> None:
    less, more = (
        forecast(demand, choose_batching(demand, replace(LIMITS, deadline_budget_s=budget_s)))
        for budget_s in sorted((one_s, two_s))
    )
    assert more.busy_instances <= less.busy_instances


@settings(deadline=None, max_examples=80)
@given(demands(), limits(), batchings, st.floats(0, 5))
def test_once_changed_it_is_left_alone_under_the_same_demand(
    demand: Demand, limits: Limits, current: Batching, reload_s: float
) -> None:
    change = plan_batching(demand, current, limits, reload_s=reload_s)
    if change is not None:
        assert change.batching != current
        assert plan_batching(demand, change.batching, limits, reload_s=reload_s) is None


@settings(deadline=None, max_examples=80)
@given(demands(), limits(), batchings, st.floats(0.1, 5))
def test_a_change_is_worth_its_price(demand: Demand, limits: Limits, current: Batching, reload_s: float) -> None:
    change = plan_batching(demand, current, limits, reload_s=reload_s)
    if change is None:
        return
    numbers = dict(change.numbers)
    now, then = forecast(demand, current), forecast(demand, change.batching)
    assert numbers["items_per_s"] == demand.items_per_s
    assert numbers["deadline_budget_s"] == limits.deadline_budget_s
    if change.reason is ActionReason.BATCHING_GAIN:
        saved_s = (now.busy_instances - then.busy_instances) * limits.batching_horizon_s
        assert saved_s > reload_s * demand.instances
        assert (numbers["saved_instance_s"], numbers["price_instance_s"]) == (saved_s, reload_s * demand.instances)
        assert numbers["latency_s"] == then.latency_s <= limits.deadline_budget_s
        return
    assert current != NO_DELAY
    assert then.latency_s < now.latency_s
    assert (numbers["latency_s"], numbers["latency_after_s"]) == (now.latency_s, then.latency_s)
    if change.reason is ActionReason.BATCHING_TOO_LONG:
        assert now.latency_s > limits.deadline_budget_s
    else:
        assert change.reason is ActionReason.BATCHING_NEEDLESS
        assert (now.latency_s - then.latency_s) * limits.batching_horizon_s > reload_s**2


@settings(deadline=None, max_examples=100)
@given(demands(), limits(), batchings, st.floats(0, 5), st.floats(0, 5))
def test_a_dearer_reload_never_leads_to_a_change_that_a_cheaper_one_would_not(
    demand: Demand, limits: Limits, current: Batching, one_s: float, two_s: float
) -> None:
    cheap, dear = (plan_batching(demand, current, limits, reload_s=price) for price in sorted((one_s, two_s)))
    assert dear is None or cheap is not None
    assert dear is None or cheap is None or dear.batching == cheap.batching


@pytest.mark.parametrize(
    ("items_per_s", "current", "reload_s", "reason"),
    [
        (200.0, NO_DELAY, 1.5, ActionReason.BATCHING_GAIN),
        (200.0, NO_DELAY, 43.0, None),  # saves 42 instance seconds in a minute, and a reload takes more
        (200.0, Batching((8,), 35_000), 1.5, None),
        (190.0, Batching((8,), 35_000), 1.5, None),  # arrivals that vary a little are not chased
        (210.0, Batching((8,), 35_000), 1.5, None),
        (1.0, Batching((8,), 50_000), 1.5, ActionReason.BATCHING_NEEDLESS),
        (1.0, Batching((8,), 50_000), 2.5, None),  # 50 ms spared for a minute is not worth it
        (0.0, Batching((8,), 50_000), 1.5, ActionReason.BATCHING_NEEDLESS),
        (1.0, Batching((8,), 80_000), 2.5, ActionReason.BATCHING_TOO_LONG),  # whatever it costs
        (0.0, NO_DELAY, 1.5, None),
    ],
)
def test_batching_changes_where_that_is_worth_its_reload_or_the_wait_is_too_long(
    items_per_s: float, current: Batching, reload_s: float, reason: ActionReason | None
) -> None:
    demand = replace(DEMAND, items_per_s=items_per_s)
    limits = replace(LIMITS, deadline_budget_s=0.06)
    change = plan_batching(demand, current, limits, reload_s=reload_s)
    assert (change.reason if change else None) == reason
    if reason is ActionReason.BATCHING_NEEDLESS:
        assert change is not None
        assert change.batching == NO_DELAY


@pytest.mark.parametrize(
    ("items_per_s", "budget_s", "is_dropped"),
    [
        (20.0, 0.1, False),  # saves 0.04 instances: too little to begin with, enough to go on with
        (10.0, 0.1, True),  # gathers 1.8 items, which saves 0.018
        (20.0, 0.055, True),  # waits 50 ms and runs 6 ms, whatever it saves
        (20.0, 0.058, False),
    ],
)
def test_a_delay_is_kept_while_it_saves_half_of_what_it_began_for_within_the_budget(
    items_per_s: float, budget_s: float, is_dropped: bool
) -> None:
    demand, limits = replace(DEMAND, items_per_s=items_per_s), replace(LIMITS, deadline_budget_s=budget_s)
    change = plan_batching(demand, Batching((2,), 80_000), limits, reload_s=1.5)
    assert (change is not None and change.batching == NO_DELAY) is is_dropped
    assert plan_batching(demand, NO_DELAY, limits, reload_s=1.5) is None


@settings(deadline=None, max_examples=80)
@given(magnitudes(1e-5, 1e-3), magnitudes(5e-4, 0.02), st.floats(0.1, 1), st.integers(1, 4), st.floats(0.97, 1.03))
def test_what_small_changes_of_arrivals_call_for_is_not_another_gain(
    per_item_s: float, batch_s: float, load: float, instances: int, wobble: float
) -> None:
    """A delay tuned to arrivals three percent off saves almost as much; a reload to tune it again never pays."""
    demand = Demand(per_item_s, batch_s, load * instances / (per_item_s + batch_s), 1.0, instances, 64)
    change = plan_batching(demand, NO_DELAY, LIMITS, reload_s=1.5)
    if change is None:
        return
    wobbled = replace(demand, items_per_s=demand.items_per_s * wobble)
    again = plan_batching(wobbled, change.batching, LIMITS, reload_s=1.5)
    if again is not None and again.reason is ActionReason.BATCHING_GAIN:
        # Only a larger size that has just come within the budget may.
        assert again.batching.preferred_sizes > change.batching.preferred_sizes
