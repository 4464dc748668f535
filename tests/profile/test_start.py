from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.profile.document import Origin
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.profile.start import PRIOR_BATCHES, Start, check_live, find_start, prior_fit
from orchestrator.snapshot import ServerName
from tests.profile.profiles import model_profile, profile_of, served, server_profile

A = ServerName("a")
PROFILE = profile_of()
THROTTLED_BATCHES = 16
"""10 of the profile's weight decay to 4.4 in so many batches, which then weigh 11.2: 2.4 times the old time."""


@given(st.floats(1e-5, 0.1), st.floats(1e-5, 0.1))
def test_the_start_is_the_profiles_line_with_the_weight_of_some_batches(per_item_s: float, fixed_s: float) -> None:
    fit = prior_fit(model_profile(50, per_item_s=per_item_s, fixed_s=fixed_s))
    assert fit.line() == pytest.approx((per_item_s, fixed_s), rel=1e-3)
    assert fit.weight == PRIOR_BATCHES


@pytest.mark.parametrize("sizes", [(1,), (8,), (1, 8), (32, 16, 1), (4, 8, 16, 32)])
def test_a_machine_three_times_slower_than_its_profile_is_noticed(sizes: tuple[int, ...]) -> None:
    fit = prior_fit(model_profile(50, per_item_s=0.01, fixed_s=0.002))
    for index in range(THROTTLED_BATCHES):
        items = sizes[index % len(sizes)]
        fit = fit.observe(items, 3 * (0.01 * items + 0.002))
    slope_s, start_s = fit.line()
    for items in sizes:
        assert slope_s * items + start_s == pytest.approx(3 * (0.01 * items + 0.002), rel=0.2)


def test_a_served_model_finds_its_latency_and_energy() -> None:
    start = find_start(PROFILE, A, served(100), slowdown=None)
    assert isinstance(start, Start)
    table = LatencyTable().start(A, served(100).name, start.latency)
    assert table.line(A, served(100), (served(100),)) == pytest.approx((0.01, 0.002))
    energy = EnergyTable().start(A, served(100).name, start.energy)
    line = energy.line(A, served(100).name)
    assert line is not None
    assert line.of_batch(4) == pytest.approx(0.9)
    assert energy.start(A, served(100).name, None).line(A, served(100).name) is None


@pytest.mark.parametrize(
    ("server", "width", "sha256", "slowdown", "reason"),
    [
        ("z", 100, None, None, "no entry for model fashion_w100 on server z"),
        ("a", 50, None, None, "no entry for model fashion_w050 on server a"),
        ("a", 100, "f" * 64, None, "sha256 0123456789ab… is not the served ffffffffffff…"),
        ("a", 100, None, 3.0, "taken with the emulated slow-down 1, the server has 3"),
    ],
)
def test_an_entry_that_is_about_something_else_is_ignored_with_the_reason(
    server: str, width: int, sha256: str | None, slowdown: float | None, reason: str
) -> None:
    model = served(width, sha256=sha256) if sha256 else served(width)
    found = find_start(PROFILE, ServerName(server), model, slowdown=slowdown)
    assert isinstance(found, str)
    assert reason in found
    assert found.endswith("take it again with 'slimsched profile'")


def test_a_synthetic_profile_steers_no_real_server() -> None:
    check_live(PROFILE, source="p")
    with pytest.raises(ConfigError, match="p: server s is synthetic, which is for simulation"):
        check_live(profile_of(server_profile("s", origin=Origin.SYNTHETIC)), source="p")
