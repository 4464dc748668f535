from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import ControllerSettings
from orchestrator.planner.conditions import HEALTHY_S, track
from orchestrator.planner.host import HostSnapshot, Limits, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.planner.ledgers.memory_ledger import MemoryLedger
from orchestrator.planner.rates import Rates
from orchestrator.planner.state import ModelMemory, SchedulerState
from orchestrator.snapshot import Family, ModelName, Width

NAME = ModelName("m")
LIMITS = Limits(
    memory_budget_bytes=1 << 30, minimum=(), settings=ControllerSettings(grow_busy_ratio=0.6, shrink_busy_ratio=0.4)
)
UNMEASURED = Rates(waiting_requests=9.0)
QUIET = Rates(window_s=1.0)


def busy(load: float, *, waiting: float = 0.0, window_s: float = 1.0) -> Rates:
    """Single requests of 10 ms that keep ``load`` instances running."""
    return Rates(
        window_s=window_s,
        requests_per_s=load * 100,
        items_per_s=load * 100,
        executions_per_s=load * 100,
        waiting_requests=waiting,
        items_per_execution=1.0 if load else None,
        service_s=0.01 if load else None,
    )


def seen(
    rates: Rates = QUIET,
    *,
    name: str = NAME,
    status: ModelStatus = ModelStatus.READY,
    instances: int = 1,
    live: int | None = None,
    is_python_based: bool = True,
) -> ModelSnapshot:
    model = RepositoryModel(ModelName(name), Family("f"), Width(50), 0.9, 32, 1000)
    loaded = LoadedModel(model.name, status, instances=instances, is_python_based=is_python_based)
    return ModelSnapshot(model, loaded, rates, live_instances=live)


def host(*models: ModelSnapshot, busy_models: frozenset[ModelName] = frozenset(), server: str = "1") -> HostSnapshot:
    return HostSnapshot(models, 1000, 0.1, server, busy_models)


def after(*snapshots: HostSnapshot | ModelSnapshot, state: SchedulerState | None = None) -> ModelMemory:
    """What is remembered after these, a second apart, the first at second 1."""
    state = state or SchedulerState()
    for now_s, snapshot in enumerate(snapshots, start=1):
        whole = snapshot if isinstance(snapshot, HostSnapshot) else host(snapshot)
        state = track(whole, state, LIMITS, now_s=float(now_s))
    return state.model(NAME)


def remembering(**values: object) -> SchedulerState:
    return SchedulerState({NAME: ModelMemory(**values)})  # type: ignore[arg-type]


FAILING = Rates(window_s=1.0, failures_per_s=3.0)
SOME_FAIL = replace(busy(0.1), failures_per_s=3.0)
CROWDED = busy(3.0, waiting=5.0)
TIMERS = {
    "pressed_since_s": (seen(CROWDED), seen(busy(3.0))),
    "slack_since_s": (seen(busy(0.1), instances=2), seen(busy(0.9), instances=2)),
    "idle_since_s": (seen(QUIET), seen(busy(0.1))),
    "failing_since_s": (seen(FAILING), seen(SOME_FAIL)),
    "dead_since_s": (seen(live=0), seen(live=1)),
    "moving_since_s": (host(seen(), busy_models=frozenset({NAME})), seen()),
}
CALM_TIMERS = ("slack_since_s", "idle_since_s")


@pytest.mark.parametrize("timer", TIMERS)
def test_a_timer_says_since_when_a_condition_has_held_without_a_break(timer: str) -> None:
    holds, does_not = TIMERS[timer]
    # Pressure fades with the smoothed queue, so the break is long enough for that. Calm is known of a whole window.
    pause = [does_not] * 4
    earlier_s = 1.0 if timer in CALM_TIMERS else 0.0
    assert getattr(after(holds), timer) == 1.0 - earlier_s
    assert getattr(after(holds, holds, holds), timer) == 1.0 - earlier_s
    assert getattr(after(does_not), timer) is None
    assert getattr(after(holds, holds, *pause), timer) is None
    assert getattr(after(holds, *pause, holds, holds), timer) == 6.0 - earlier_s


LOAD_TIMERS = ("pressed_since_s", "slack_since_s", "idle_since_s", "failing_since_s")


def load_of(memory: ModelMemory) -> tuple[object, ...]:
    return memory.items_per_s, memory.busy_instances, memory.waiting_requests, memory.curve


@pytest.mark.parametrize("timer", LOAD_TIMERS)
def test_a_window_that_could_not_be_measured_is_neither_load_nor_calm(timer: str) -> None:
    holds, does_not = (s for s in TIMERS[timer] if isinstance(s, ModelSnapshot))
    for measured in (holds, does_not):
        gap = replace(measured, rates=UNMEASURED)
        before, now = after(measured), after(measured, gap)
        assert load_of(now) == load_of(before)
        assert [getattr(now, name) for name in LOAD_TIMERS] == [None] * 4
    gap = replace(holds, rates=UNMEASURED)
    began_s = 3.0 if timer in CALM_TIMERS else 4.0
    assert getattr(after(holds, holds, gap, holds, holds), timer) == began_s  # without a break since then


@pytest.mark.parametrize("timer", ["dead_since_s", "moving_since_s"])
def test_what_is_seen_without_counters_needs_no_window(timer: str) -> None:
    holds, _ = TIMERS[timer]
    if isinstance(holds, HostSnapshot):
        gap: HostSnapshot | ModelSnapshot = replace(holds, models=(seen(UNMEASURED),))
    else:
        gap = replace(holds, rates=UNMEASURED)
    assert getattr(after(holds, gap, holds), timer) == 1.0


@pytest.mark.parametrize(
    ("changed_s", "window_s", "counts"), [(None, 1.0, True), (9.0, 1.0, True), (9.1, 1.0, False), (8.5, 2.0, False)]
)
def test_a_window_in_which_the_model_was_changed_is_passed_over(
    changed_s: float | None, window_s: float, counts: bool
) -> None:
    """Triton counts the warm-up of new instances as requests."""
    old = ModelMemory(items_per_s=5.0, busy_instances=0.05, changed_s=changed_s, idle_since_s=3.0)
    now = track(host(seen(busy(3.0, window_s=window_s))), SchedulerState({NAME: old}), LIMITS, now_s=10.0).model(NAME)
    assert (load_of(now) != load_of(old)) is counts
    assert now.idle_since_s == (None if counts else 3.0)


@pytest.mark.parametrize(
    ("rates", "is_idle"),
    [
        (QUIET, True),
        (busy(0.01), False),
        (FAILING, False),
        (replace(QUIET, waiting_requests=0.1), False),
    ],
)
def test_who_fails_or_waits_is_not_idle(rates: Rates, is_idle: bool) -> None:
    assert (after(seen(rates)).idle_since_s is not None) == is_idle


@pytest.mark.parametrize(
    ("live", "is_python_based", "is_dead"),
    [(0, True, True), (1, True, True), (2, True, False), (3, True, False), (None, True, False), (0, False, False)],
)
def test_an_instance_is_dead_when_fewer_stubs_live_than_there_should_be(
    live: int | None, is_python_based: bool, is_dead: bool
) -> None:
    memory = after(seen(instances=2, live=live, is_python_based=is_python_based))
    assert (memory.dead_since_s is not None) == is_dead


def test_while_an_action_is_under_way_no_stub_is_missed() -> None:
    memory = after(host(seen(live=0), busy_models=frozenset({NAME})))
    assert memory.dead_since_s is None
    assert memory.moving_since_s == 1.0


@pytest.mark.parametrize(
    ("status", "is_moving"),
    [
        (ModelStatus.LOADING, True),
        (ModelStatus.UNLOADING, True),
        (ModelStatus.ABSENT, False),
        (ModelStatus.FAILED, False),
        (ModelStatus.READY, False),
    ],
)
def test_loading_and_unloading_are_moving(status: ModelStatus, is_moving: bool) -> None:
    assert (after(seen(status=status)).moving_since_s is not None) == is_moving
    assert (after(seen(status=status), seen(status=status)).moving_since_s == 1.0) == is_moving


@pytest.mark.parametrize("status", [status for status in ModelStatus if status is not ModelStatus.READY])
def test_a_model_that_does_not_serve_has_no_load_but_keeps_what_was_learned(status: ModelStatus) -> None:
    kept = {
        "changed_s": 0.1,
        "batching_changed_s": 0.2,
        "unloaded_s": 0.3,
        "repairs": 2,
        "repaired_s": 0.4,
        "curve": after(seen(busy(0.5))).curve,
    }
    timers = dict.fromkeys(("pressed_since_s", "slack_since_s", "idle_since_s", "dead_since_s", "failing_since_s"), 0.5)
    loads = dict.fromkeys(("items_per_s", "busy_instances", "waiting_requests"), 7.0)
    memory = after(seen(CROWDED, status=status), state=remembering(**kept, **timers, **loads))
    assert memory == ModelMemory(moving_since_s=memory.moving_since_s, **kept)  # type: ignore[arg-type]


def test_pressed_needs_both_busy_instances_and_a_queue() -> None:
    # After long enough the smoothed values are the true ones.
    def is_pressed(load: float, waiting: float, instances: int) -> bool:
        rates = busy(load, waiting=waiting, window_s=50.0)
        return after(seen(rates, instances=instances)).pressed_since_s is not None

    assert is_pressed(0.75, 0.6, 1)
    assert not is_pressed(0.55, 9.0, 1)
    assert not is_pressed(0.75, 0.4, 1)
    assert not is_pressed(0.75, 0.6, 2)
    assert is_pressed(1.5, 0.6, 2)


@pytest.mark.parametrize(
    ("load", "instances", "is_slack"),
    [(0.0, 1, False), (0.39, 2, True), (0.41, 2, False), (1.1, 4, True), (1.3, 4, False)],
)
def test_slack_is_when_one_instance_fewer_would_do(load: float, instances: int, is_slack: bool) -> None:
    memory = after(seen(busy(load, window_s=50.0), instances=instances))
    assert (memory.slack_since_s is not None) == is_slack


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 8), st.floats(0, 50), st.integers(1, 8))
def test_no_load_is_both_too_much_and_too_little(load: float, waiting: float, instances: int) -> None:
    memory = after(seen(busy(load, waiting=waiting, window_s=50.0), instances=instances))
    assert memory.pressed_since_s is None or memory.slack_since_s is None
    if memory.slack_since_s is not None:  # and what would be left is not at once in want of another
        assert memory.busy_instances / (instances - 1) < LIMITS.settings.grow_busy_ratio


def test_the_first_arrivals_are_believed_and_later_ones_smoothed_over_ten_seconds() -> None:
    assert after(seen(busy(1.0))).items_per_s == 100.0
    assert after(seen(QUIET), seen(QUIET), seen(busy(1.0))).items_per_s == 100.0
    kept = math.exp(-1 / 10)
    assert after(seen(busy(1.0)), seen(busy(2.0))).items_per_s == pytest.approx(100 * kept + 200 * (1 - kept))


def test_load_is_smoothed_over_a_second() -> None:
    kept = math.exp(-1.0)
    memory = after(seen(busy(1.0, waiting=4.0)))
    assert (memory.busy_instances, memory.waiting_requests) == pytest.approx((1 - kept, 4 * (1 - kept)))
    memory = after(seen(busy(1.0, waiting=4.0)), seen(QUIET))
    assert (memory.busy_instances, memory.waiting_requests) == pytest.approx(((1 - kept) * kept, 4 * (1 - kept) * kept))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.01, 4),
    st.floats(0.01, 4),
    st.floats(0, 20),
    st.lists(st.floats(0.05, 5), min_size=1, max_size=8),
)
def test_under_constant_load_it_does_not_matter_into_which_windows_time_is_cut(
    first: float, load: float, waiting: float, windows_s: list[float]
) -> None:
    start = track(host(seen(busy(first))), SchedulerState(), LIMITS, now_s=0.0)
    total_s = sum(windows_s)
    whole = track(host(seen(busy(load, waiting=waiting, window_s=total_s))), start, LIMITS, now_s=total_s)
    cut, now_s = start, 0.0
    for window_s in windows_s:
        now_s += window_s
        cut = track(host(seen(busy(load, waiting=waiting, window_s=window_s))), cut, LIMITS, now_s=now_s)
    for value in ("items_per_s", "busy_instances", "waiting_requests"):
        expected = getattr(whole.model(NAME), value)
        assert getattr(cut.model(NAME), value) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 8), st.floats(0, 50), st.floats(0.01, 20)), min_size=1, max_size=15))
def test_smoothed_values_stay_within_what_was_seen(windows: list[tuple[float, float, float]]) -> None:
    memory = after(*(seen(busy(load, waiting=waiting, window_s=w_s)) for load, waiting, w_s in windows))
    loads = [load for load, _, _ in windows]
    assert 0 <= memory.busy_instances <= max(loads) * (1 + 1e-9)
    assert 0 <= memory.waiting_requests <= max(waiting for _, waiting, _ in windows) * (1 + 1e-9)
    assert 0 <= memory.items_per_s <= 100 * max(loads) * (1 + 1e-9)


def test_the_curve_learns_from_windows_in_which_something_ran() -> None:
    small, large = busy(0.1), replace(busy(0.1), items_per_execution=8.0, service_s=0.024)
    assert after(seen(QUIET), seen(FAILING)).curve.classes == {}
    assert after(seen(small), seen(large)).curve.line() == pytest.approx((0.002, 0.008))


@pytest.mark.parametrize(
    ("since_s", "snapshot", "repairs"),
    [
        (HEALTHY_S - 1, seen(), 3),
        (HEALTHY_S, seen(), 0),
        (HEALTHY_S, seen(live=0), 3),
        (HEALTHY_S, seen(FAILING), 3),
        (HEALTHY_S, seen(live=1), 0),
    ],
)
def test_a_repair_that_has_lasted_is_forgotten(since_s: float, snapshot: ModelSnapshot, repairs: int) -> None:
    state = remembering(repairs=3, repaired_s=1.0 - since_s)
    assert after(snapshot, state=state).repairs == repairs


@settings(deadline=None, max_examples=30)
@given(st.permutations(["a", "b", "c"]), st.lists(st.floats(0, 3), min_size=3, max_size=3))
def test_models_do_not_mix_whatever_their_order(order: list[str], loads: list[float]) -> None:
    rates = dict(zip("abc", (busy(load) for load in loads), strict=True))
    together = track(host(*(seen(rates[n], name=n) for n in order)), SchedulerState(), LIMITS, now_s=1.0)
    for name in "abc":
        alone = track(host(seen(rates[name], name=name)), SchedulerState(), LIMITS, now_s=1.0)
        assert together.model(ModelName(name)) == alone.model(ModelName(name))


def test_a_model_no_longer_in_the_repository_is_forgotten() -> None:
    state = track(host(seen(), seen(name="old")), SchedulerState(), LIMITS, now_s=1.0)
    assert set(track(host(seen()), state, LIMITS, now_s=2.0).models) == {NAME}


def test_a_restarted_server_owes_nothing_and_nothing_is_changed_in_place() -> None:
    state = SchedulerState(memory=MemoryLedger({NAME: (5,)}, balance_bytes=9, server_id="1"))
    assert track(host(seen(), server="1"), state, LIMITS, now_s=1.0).memory == state.memory
    restarted = track(host(seen(), server="2"), state, LIMITS, now_s=1.0).memory
    assert (restarted.residue_bytes, restarted.loads_bytes) == (0, {NAME: (5,)})
    assert state == SchedulerState(memory=MemoryLedger({NAME: (5,)}, balance_bytes=9, server_id="1"))
