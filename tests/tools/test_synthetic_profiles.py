from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.profile.document import Origin, read_profile
from orchestrator.profile.fit import fit_energy
from orchestrator.profile.start import check_live
from tools.synthetic_profiles import (
    DEVICES,
    FIGURES,
    DeviceClass,
    Figure,
    device_times_s,
    render_files,
    synthetic_profile,
)

FOLDER = Path(__file__).parents[2] / "profiles" / "synthetic"
every_device = pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)


def test_the_files_are_what_the_generator_makes_and_no_others() -> None:
    made = render_files()
    found = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.json")}
    assert sorted(found) == sorted(made)
    assert found == made, "run 'python -m tools.synthetic_profiles'"


@every_device
def test_each_is_a_profile_that_says_it_is_synthetic_and_from_what(device: DeviceClass) -> None:
    profile = synthetic_profile(device)
    assert read_profile(FOLDER / f"{device.name}.json") == profile
    (server,) = profile.servers
    assert server.origin is Origin.SYNTHETIC
    assert f"{device.power_limit_w:g} W" in profile.conditions.assumptions[0]
    assert all(batch.n == 0 for model in server.models for batch in model.batches)
    with pytest.raises(ConfigError, match="is synthetic, which is for simulation"):
        check_live(profile, source="p")


@every_device
def test_cost_rises_with_width_and_batch_and_an_item_gets_cheaper_in_company(device: DeviceClass) -> None:
    (server,) = synthetic_profile(device).servers
    for model in server.models:
        for small, large in itertools.pairwise(model.batches):
            assert small.mean_s < large.mean_s
            assert large.mean_s / large.items <= small.mean_s / small.items
            assert small.energy_j is not None
            assert large.energy_j is not None
            assert small.energy_j < large.energy_j
        assert fit_energy(model.batches) is not None
    for narrow, wide in itertools.pairwise(server.models):
        assert narrow.accuracy < wide.accuracy
        assert all(a.mean_s < b.mean_s for a, b in zip(narrow.batches, wide.batches, strict=True))


def test_no_device_draws_more_than_its_limit_and_none_idles_busy() -> None:
    for device in DEVICES:
        (server,) = synthetic_profile(device).servers
        assert server.idle.power_w is not None
        for model in server.models:
            for batch in model.batches:
                assert batch.energy_j is not None
                most_w = device.power_limit_w + device.host_idle_w + device.host_busy_w
                assert 0 < batch.energy_j / batch.mean_s < most_w - server.idle.power_w


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.device)
def test_what_was_published_of_a_machine_is_what_its_profile_has(figure: Figure) -> None:
    (device,) = (each for each in DEVICES if each.name == figure.device)
    _, device_s = device_times_s(device, 1.0, figure.items)
    assert figure.items / device_s == pytest.approx(figure.items_a_second, rel=0.08)


def test_a_fast_card_is_launch_bound_where_a_cpu_is_not() -> None:
    profiles = {device.name: synthetic_profile(device).servers[0].models for device in DEVICES}
    ratios = {name: models[0].batches[0].mean_s / models[-1].batches[0].mean_s for name, models in profiles.items()}
    assert ratios["h100"] > 0.8  # a quarter of the width saves hardly anything
    assert ratios["cpu-edge"] < 0.15


def test_each_has_a_name_of_its_own() -> None:
    assert len({device.name for device in DEVICES}) == len(DEVICES)
