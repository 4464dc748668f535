from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.config import PowerSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import Conditions, EnergySource, Profile, parse_profile, render_profile
from orchestrator.profiling.assembly import ServerFacts, assemble_profile, check_binding, find_idle, keep_others
from orchestrator.profiling.sampling import Cell, Visit, Window
from orchestrator.snapshot import ServerName
from tests.profile.profiles import profile_of, served, server_profile
from tests.profiling.worlds import A

PROFILE = profile_of()


def facts(*, power: PowerSettings | None = None, no_counter: str = "") -> ServerFacts:
    return ServerFacts(A, "cpu", "fake", None, "2.51.0", None, power, no_counter, ())


def test_idle_power_is_pooled_over_all_windows() -> None:
    idle = find_idle(facts(), [Window(30.0, 2.0, "rapl"), Window(50.0, 2.0, "rapl")])
    assert (idle.power_w, idle.source) == (pytest.approx(20), EnergySource.RAPL)


@pytest.mark.parametrize(
    ("windows_j", "batch_j"),
    [
        ((100.0, 60.0), 20.0),  # 160 J in 4 s, of which 80 are idle, over two visits of two batches
        ((100.0, 20.0), 10.0),  # one that drew less than idle counts as it is
        ((30.0, 20.0), 0.0),  # but no batch gives energy back
    ],
)
def test_a_batch_costs_what_all_its_windows_drew_above_idle(windows_j: Sequence[float], batch_j: float) -> None:
    model = served(25, max_batch_size=1)
    visits = [Visit((0.1, 0.3), Window(energy_j, 2.0, "rapl")) for energy_j in windows_j]
    profile = assemble_profile(
        [replace(facts(), models=(model,))],
        Conditions("2026-01-01T00:00:00+00:00", "a host", None, 0, ()),
        visits={Cell(A, model.name, 1): visits},
        idles={A: [Window(40.0, 2.0, "rapl")]},
        cycles={},
    )
    (batch,) = profile.servers[0].models[0].batches
    assert (batch.energy_j, batch.energy_source) == (pytest.approx(batch_j), EnergySource.RAPL)


@pytest.mark.parametrize(
    "windows",
    [
        [],
        [Window(None, 2.0, "none", "gone")],
        [Window(30.0, 2.0, "rapl"), Window(None, 2.0, "none", "gone")],
        [Window(30.0, 2.0, "rapl"), Window(30.0, 2.0, "nvml-energy-counter")],
        [Window(30.0, 2.0, "wall-meter"), Window(30.0, 2.0, "rapl")],
    ],
)
def test_without_a_counter_over_all_windows_the_stated_power_stands_in_or_the_reason(windows: list[Window]) -> None:
    stated = find_idle(facts(power=PowerSettings(idle_w=7, busy_w=9)), windows)
    assert (stated.power_w, stated.source) == (7, EnergySource.ESTIMATED)
    unknown = find_idle(facts(), windows)
    assert (unknown.power_w, unknown.source) == (None, None)
    assert unknown.reason.endswith("fleet.yaml states no 'power' for the server")


def test_a_counter_of_another_package_is_told_apart() -> None:
    idle = find_idle(facts(power=PowerSettings(idle_w=7, busy_w=9)), [Window(30.0, 2.0, "wall-meter")])
    assert (idle.power_w, idle.source) == (15.0, EnergySource.PLUGIN)


def test_the_reason_is_the_counters_own() -> None:
    assert find_idle(facts(no_counter="no RAPL"), []).reason.startswith("no RAPL; ")
    assert find_idle(facts(), [Window(None, 1.0, "none", "gone")]).reason.startswith("gone; ")


def test_servers_that_are_not_measured_again_stay_with_when_and_where_they_were() -> None:
    def taken(host: str, *names: str, idle_w: int = 10) -> Profile:
        said = tuple(f"{name} draws {idle_w} W idle, 30 W busy: stated in fleet.yaml" for name in names)
        conditions = Conditions(f"2026-01-0{idle_w % 10}", host, None, 0, said)
        return Profile(1, conditions, tuple(server_profile(name, triton_version=host) for name in names))

    both = taken("first", "a", "b", idle_w=11)
    again = keep_others(taken("second", "b", idle_w=12), both)
    assert [(server.name, server.triton_version) for server in again.servers] == [("a", "first"), ("b", "second")]
    assert again.conditions.host == "second"
    assert again.conditions.assumptions == (
        "b draws 12 W idle, 30 W busy: stated in fleet.yaml",
        "a draws 11 W idle, 30 W busy: stated in fleet.yaml",
        "a was measured until 2026-01-01 by first",
    )
    third = keep_others(taken("third", "c", idle_w=13), again)
    assert [server.name for server in third.servers] == ["a", "b", "c"]
    assert third.conditions.assumptions[-2:] == (
        "a was measured until 2026-01-01 by first",
        "b was measured until 2026-01-02 by second",
    )
    assert keep_others(taken("all", "a", "b", "c"), third) == taken("all", "a", "b", "c")
    assert parse_profile(render_profile(third), source="p") == third


def test_a_profile_is_bound_to_servers_weights_and_triton() -> None:
    found = replace(facts(), models=(served(25), served(100)))
    check_binding(PROFILE, found, source="p")
    for other, problem in [
        (replace(found, name=ServerName("z")), "it has no server z"),
        (replace(found, triton_version="2.60.0"), "triton_version 2.51.0 is not the server's 2.60.0"),
        (replace(found, models=(served(50),)), "no entry for model fashion_w050"),
        (replace(found, models=(served(25, sha256="f" * 64),)), "is not the served ffffffffffff…"),
        (replace(found, slowdown=2.0), "taken with the emulated slow-down 1, the server has 2"),
    ]:
        with pytest.raises(ConfigError, match=r"^p: .*take it again") as caught:
            check_binding(PROFILE, other, source="p")
        assert problem in str(caught.value)
