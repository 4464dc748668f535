from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config import PowerSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import EnergySource
from orchestrator.profiling.assembly import ServerFacts, check_binding, find_idle
from orchestrator.profiling.sampling import Window
from orchestrator.snapshot import ServerName
from tests.profile.profiles import profile_of, served
from tests.profiling.worlds import A

PROFILE = profile_of()


def facts(*, power: PowerSettings | None = None, no_counter: str = "") -> ServerFacts:
    return ServerFacts(A, "cpu", "fake", None, "2.51.0", None, power, no_counter, ())


def test_idle_power_is_pooled_over_all_windows() -> None:
    idle = find_idle(facts(), [Window(30.0, 2.0, "rapl"), Window(50.0, 2.0, "rapl")])
    assert (idle.power_w, idle.source) == (pytest.approx(20), EnergySource.RAPL)


@pytest.mark.parametrize(
    "windows",
    [
        [],
        [Window(None, 2.0, "none", "gone")],
        [Window(30.0, 2.0, "rapl"), Window(None, 2.0, "none", "gone")],
        [Window(30.0, 2.0, "rapl"), Window(30.0, 2.0, "nvml-energy-counter")],
        [Window(30.0, 2.0, "a stranger")],
    ],
)
def test_without_a_counter_over_all_windows_the_stated_power_stands_in_or_the_reason(windows: list[Window]) -> None:
    stated = find_idle(facts(power=PowerSettings(idle_w=7, busy_w=9)), windows)
    assert (stated.power_w, stated.source) == (7, EnergySource.ESTIMATED)
    unknown = find_idle(facts(), windows)
    assert (unknown.power_w, unknown.source) == (None, None)
    assert unknown.reason.endswith("fleet.yaml states no 'power' for the server")


def test_the_reason_is_the_counters_own() -> None:
    assert find_idle(facts(no_counter="no RAPL"), []).reason.startswith("no RAPL; ")
    assert find_idle(facts(), [Window(None, 1.0, "none", "gone")]).reason.startswith("gone; ")


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
