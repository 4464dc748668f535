from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import EjectionSettings
from orchestrator.router.servers.ejection_rules import EjectionReason, latency_quantile, plan_ejections
from orchestrator.router.servers.health import ServerHealth, TimedRun
from orchestrator.snapshot import ServerName

SETTINGS = EjectionSettings(latency_floor_ms=0)


def ran(*ratios: float, at_s: float = 0.0) -> ServerHealth:
    return ServerHealth(None, runs=tuple(TimedRun(at_s, 0.1 * ratio, 0.1) for ratio in ratios))


def plan(
    *healths: ServerHealth, settings: EjectionSettings = SETTINGS, now_s: float = 1.0
) -> dict[str, EjectionReason]:
    """Return the ejections of a fleet of equals s0, s1, …"""
    fleet = {ServerName(f"s{n}"): health for n, health in enumerate(healths)}
    return {**plan_ejections(fleet, dict.fromkeys(fleet, 1.0), settings, now_s=now_s)}


healths = st.builds(
    ServerHealth,
    problem=st.none() | st.just("gone"),
    failures_in_row=st.integers(0, 10),
    runs=st.lists(st.builds(TimedRun, st.floats(0, 100), st.floats(1e-4, 100), st.floats(1e-4, 100)), max_size=8).map(
        tuple
    ),
    ejected_until_s=st.none() | st.floats(100, 200),
)
Fleet = dict[ServerName, tuple[ServerHealth, float]]
fleets = st.dictionaries(
    st.sampled_from([ServerName(f"s{n}") for n in range(8)]), st.tuples(healths, st.floats(0.1, 1e6)), max_size=8
)


def plan_mixed(fleet: Fleet, settings: EjectionSettings) -> dict[ServerName, EjectionReason]:
    healths = {name: health for name, (health, _) in fleet.items()}
    return plan_ejections(healths, {name: capacity for name, (_, capacity) in fleet.items()}, settings, now_s=100.0)


@given(fleet=fleets, panic_share=st.floats(0, 1))
def test_the_panic_threshold_is_kept_and_somebody_always_stays(fleet: Fleet, panic_share: float) -> None:
    out = set(plan_mixed(fleet, EjectionSettings(panic_share=panic_share)))
    usable = {name for name, (health, _) in fleet.items() if health.is_healthy}
    assert out <= usable
    if out:
        left = sum(fleet[name][1] for name in usable - out)
        assert usable - out
        assert left >= panic_share * sum(capacity for _, capacity in fleet.values()) * (1 - 1e-9)


@given(fleet=fleets, order=st.randoms(use_true_random=False))
def test_the_order_of_the_fleet_does_not_matter(fleet: Fleet, order: object) -> None:
    names = list(fleet)
    order.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: fleet[name] for name in names}
    assert list(plan_mixed(fleet, SETTINGS).items()) == list(plan_mixed(shuffled, SETTINGS).items())


@given(factor=st.floats(0.1, 1000), size=st.integers(2, 8))
def test_a_slowdown_of_the_whole_fleet_ejects_nobody(factor: float, size: int) -> None:
    assert plan(*[ran(*[factor] * 8)] * size) == {}


@given(factor=st.floats(3.1, 1000), size=st.integers(2, 8))
def test_one_that_is_far_slower_than_its_profile_is_ejected(factor: float, size: int) -> None:
    planned = plan(ran(*[factor] * 8), *[ran(*[1.0] * 8)] * (size - 1))
    assert planned == {"s0": EjectionReason.LATENCY}


def test_the_median_counts_so_one_stall_is_no_sign_and_old_runs_are_none() -> None:
    well = ran(*[1.0] * 8)
    assert plan(ran(1, 1, 1, 1, 1, 500), well) == {}
    assert plan(ran(*[9.0] * 8), well, now_s=31.0) == {}
    assert plan(ran(*[9.0] * 3), well) == {}, "too few to say"
    assert plan(ran(*[9.0] * 8), ServerHealth(None)) == {}, "nobody to compare with"


def test_runs_below_the_floor_are_never_slow() -> None:
    settings = EjectionSettings(latency_floor_ms=20)
    short = ServerHealth(None, runs=(TimedRun(0, 0.030, 0.001),) * 8)
    assert plan(short, ran(*[1.0] * 8), settings=settings) == {}


def test_failures_in_a_row_eject_and_the_worst_goes_first() -> None:
    failing, slow, well = ServerHealth(None, failures_in_row=5), ran(*[50.0] * 8), ran(*[1.0] * 8)
    both = plan(slow, failing, well)
    assert list(both.items()) == [("s1", EjectionReason.FAILURES), ("s0", EjectionReason.LATENCY)]
    half = plan(slow, failing, well, settings=EjectionSettings(panic_share=0.5))
    assert list(half) == ["s1"]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_the_quantile_is_one_of_the_ratios_and_as_many_are_below(ratios: list[float], quantile: float) -> None:
    found = latency_quantile([ran(*ratios)], quantile)
    assert found is not None
    assert sum(ratio <= found * (1 + 1e-9) for ratio in ratios) >= math.floor(quantile * len(ratios))
    assert latency_quantile([ServerHealth()], quantile) is None
