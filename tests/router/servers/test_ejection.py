from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import EjectionSettings
from orchestrator.router.servers.ejection import (
    Ejection,
    EjectionReason,
    EjectionState,
    Member,
    TimedRun,
    latency_quantile,
    plan_ejections,
)
from orchestrator.snapshot import ServerName

SETTINGS = EjectionSettings(latency_floor_ms=0)


def ran(*ratios: float, at_s: float = 0.0) -> EjectionState:
    return EjectionState(runs=tuple(TimedRun(at_s, 0.1 * ratio, 0.1) for ratio in ratios))


def fleet(*states: EjectionState, capacities: tuple[float, ...] | None = None) -> dict[ServerName, Member]:
    sizes = capacities or (1.0,) * len(states)
    return {
        ServerName(f"s{n}"): Member(state, size, not state.is_ejected)
        for n, (state, size) in enumerate(zip(states, sizes, strict=True))
    }


states = st.builds(
    EjectionState,
    failures_in_row=st.integers(0, 10),
    runs=st.lists(st.builds(TimedRun, st.floats(0, 100), st.floats(1e-4, 100), st.floats(1e-4, 100)), max_size=8).map(
        tuple
    ),
    ejected_until_s=st.none() | st.floats(100, 200),
)
members = st.builds(
    lambda state, capacity, up: Member(state, capacity, up and not state.is_ejected),
    states,
    st.floats(0.1, 1e6),
    st.booleans(),
)
fleets = st.dictionaries(st.sampled_from([ServerName(f"s{n}") for n in range(8)]), members, max_size=8)


@given(fleet=fleets, panic_share=st.floats(0, 1))
def test_the_panic_threshold_is_kept_and_somebody_always_stays(
    fleet: dict[ServerName, Member], panic_share: float
) -> None:
    settings = EjectionSettings(panic_share=panic_share)
    out = {e.server for e in plan_ejections(fleet, settings, now_s=100.0)}
    usable = {name for name, member in fleet.items() if member.is_usable}
    assert out <= usable
    if out:
        left = sum(fleet[name].capacity for name in usable - out)
        assert usable - out
        assert left >= panic_share * sum(member.capacity for member in fleet.values()) * (1 - 1e-9)


@given(fleet=fleets, order=st.randoms(use_true_random=False))
def test_the_order_of_the_fleet_does_not_matter(fleet: dict[ServerName, Member], order: object) -> None:
    names = list(fleet)
    order.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: fleet[name] for name in names}
    assert plan_ejections(fleet, SETTINGS, now_s=100.0) == plan_ejections(shuffled, SETTINGS, now_s=100.0)


@given(factor=st.floats(0.1, 1000), size=st.integers(2, 8))
def test_a_slowdown_of_the_whole_fleet_ejects_nobody(factor: float, size: int) -> None:
    assert plan_ejections(fleet(*[ran(*[factor] * 8)] * size), SETTINGS, now_s=1.0) == ()


@given(factor=st.floats(3.1, 1000), size=st.integers(2, 8))
def test_one_that_is_far_slower_than_its_profile_is_ejected(factor: float, size: int) -> None:
    planned = plan_ejections(fleet(ran(*[factor] * 8), *[ran(*[1.0] * 8)] * (size - 1)), SETTINGS, now_s=1.0)
    assert planned == (Ejection(ServerName("s0"), EjectionReason.LATENCY),)


def test_the_median_counts_so_one_stall_is_no_sign_and_old_runs_are_none() -> None:
    well = ran(*[1.0] * 8)
    assert plan_ejections(fleet(ran(1, 1, 1, 1, 1, 500), well), SETTINGS, now_s=1.0) == ()
    assert plan_ejections(fleet(ran(*[9.0] * 8), well), SETTINGS, now_s=31.0) == ()
    assert plan_ejections(fleet(ran(*[9.0] * 3), well), SETTINGS, now_s=1.0) == (), "too few to tell"
    assert plan_ejections(fleet(ran(*[9.0] * 8), EjectionState()), SETTINGS, now_s=1.0) == (), "nobody to compare with"


def test_runs_below_the_floor_are_never_slow() -> None:
    settings = EjectionSettings(latency_floor_ms=20)
    short = EjectionState(runs=(TimedRun(0, 0.030, 0.001),) * 8)
    assert plan_ejections(fleet(short, ran(*[1.0] * 8)), settings, now_s=1.0) == ()


def test_failures_in_a_row_eject_and_the_worst_goes_first() -> None:
    failing, slow, well = EjectionState(failures_in_row=5), ran(*[50.0] * 8), ran(*[1.0] * 8)
    both = plan_ejections(fleet(slow, failing, well), SETTINGS, now_s=1.0)
    assert both == (
        Ejection(ServerName("s1"), EjectionReason.FAILURES),
        Ejection(ServerName("s0"), EjectionReason.LATENCY),
    )
    half = plan_ejections(fleet(slow, failing, well), EjectionSettings(panic_share=0.5), now_s=1.0)
    assert [e.server for e in half] == ["s1"]


def test_failures_of_attempts_that_were_under_way_together_count_once() -> None:
    state = EjectionState()
    for _ in range(5):
        state = state.after_failure(sent_s=1.0, now_s=2.0)
    assert state.failures_in_row == 1
    state = state.after_failure(sent_s=3.0, now_s=4.0)
    assert state.failures_in_row == 2
    assert state.after_success().failures_in_row == 0


def test_ejections_grow_when_they_follow_each_other_and_are_forgiven_in_time() -> None:
    settings = EjectionSettings(ejection_s=5, ejection_max_s=30)
    state, now_s, lengths_s = EjectionState(), 0.0, []
    for _ in range(5):
        state, until_s = state.after_ejection(settings, now_s=now_s)
        assert state.ejected_until_s == until_s
        lengths_s.append(until_s - now_s)
        now_s = until_s
        state = state.after_return(now_s=now_s)
    assert lengths_s == [5, 10, 20, 30, 30]
    _, until_s = state.after_ejection(settings, now_s=now_s + 1000)
    assert until_s == now_s + 1000 + 5


@given(gone_s=st.floats(0, 100), more_s=st.floats(0, 100))
def test_what_returns_gets_a_share_that_grows_to_the_whole(gone_s: float, more_s: float) -> None:
    state = EjectionState().after_return(now_s=50)
    early, late = (state.share(SETTINGS, now_s=50 + s) for s in (gone_s, gone_s + more_s))
    assert 0 < early <= late <= 1
    assert state.share(SETTINGS, now_s=50 + SETTINGS.slow_start_s) == 1
    assert EjectionState().share(SETTINGS, now_s=0) == 1


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_the_quantile_is_one_of_the_ratios_and_as_many_are_below(ratios: list[float], quantile: float) -> None:
    found = latency_quantile([ran(*ratios)], quantile)
    assert found is not None
    assert sum(ratio <= found * (1 + 1e-9) for ratio in ratios) >= math.floor(quantile * len(ratios))
    assert latency_quantile([EjectionState()], quantile) is None
