from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import EnergySource, ModelProfile, Origin, write_profile
from orchestrator.router import Router
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.profile.profiles import SHA256, model_profile, profile_of, server_profile

pytestmark = pytest.mark.virtual_time

A = ServerName("a")
SETTINGS = RouterSettings(policy="lert:100", discovery_period_s=1.0, guard=NO_TIME_LIMITS)


def server_with(sha256: str = SHA256) -> FakeServer:
    server = FakeServer((25, 100), per_item_s=0.01, fixed_s=0.002)
    server.models = tuple(replace(model, sha256=sha256) for model in server.models)
    return server


def router_of(server: FakeServer, *entries: int) -> Router:
    profile = profile_of(server_profile("a", *(model_profile(width) for width in entries)))
    return Router(SETTINGS, {A: server}, starts=ProfileStarts(profile))


async def test_what_has_an_entry_starts_from_it_and_is_not_warmed_up() -> None:
    server = server_with()
    async with router_of(server, 25, 100) as router:
        assert server.batches == []
        narrow, wide = router.models()
        assert router.inspect().latency.line(A, wide, (narrow, wide)) == pytest.approx((0.01, 0.002))
        line = router.inspect().energy.line(A, wide.name)
        assert line is not None
        assert (line.per_item_j, line.fixed_j) == pytest.approx((0.1, 0.5))
        assert line.source is EnergySource.ESTIMATED
        assert (await router.infer(item(3))).width == 100


async def test_what_has_none_is_warmed_up_and_costs_unknown_joules(caplog: pytest.LogCaptureFixture) -> None:
    server = server_with()
    with caplog.at_level(logging.WARNING):
        async with router_of(server, 100) as router:
            assert {width for width, _ in server.batches} == {25}
            assert router.inspect().energy.line(A, router.models()[0].name) is None
    assert "no entry for model fashion_w025 on server a" in caplog.text


async def test_entries_for_other_weights_are_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    server = server_with("f" * 64)
    with caplog.at_level(logging.WARNING):
        async with router_of(server, 25, 100) as router:
            assert {width for width, _ in server.batches} == {25, 100}
            assert router.inspect().energy.lines == {}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("is not the served ffffffffffff…" in message for message in messages)


async def test_observations_of_the_same_weights_outlive_an_absence_and_those_of_others_do_not() -> None:
    starts = ProfileStarts(profile_of(server_profile("a", model_profile(100))))
    model = server_with().models[1]
    async with Router(SETTINGS, {A: server_with()}) as router:
        latency, energy, _ = starts.begin(A, model, router.inspect().latency, router.inspect().energy)
    observed = latency.observe(A, model.name, 1, 9.0)
    again, energy, has_entry = starts.begin(A, model, observed, energy)
    assert has_entry
    assert again is observed
    _, energy, has_entry = starts.begin(A, replace(model, sha256="f" * 64), again, energy)
    assert not has_entry
    assert energy.lines == {}


async def test_a_machine_slower_than_its_profile_is_noticed_from_its_answers() -> None:
    server = server_with()
    server.per_item_s, server.fixed_s = 0.03, 0.006
    async with router_of(server, 25, 100) as router:
        for _ in range(16):
            await router.infer(item(3))
        narrow, wide = router.models()
        slope_s, start_s = router.inspect().latency.line(A, wide, (narrow, wide))
        assert slope_s + start_s == pytest.approx(0.036, rel=0.2)


def fleet(path: Path, **server: object) -> FleetSettings:
    return FleetSettings(
        servers=(ServerSettings.model_validate({"name": "a", "grpc": "127.0.0.1:1", **server}),),
        router=RouterSettings(profile=path),
    )


async def test_the_fleet_file_names_the_profile_and_the_emulation_must_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "profile.json"
    write_profile(profile_of(server_profile("a", origin=Origin.EMULATED, slowdown=3.0)), path)
    async with Router(SETTINGS, {A: server_with()}) as router:
        model = server_with().models[1]
        fitting, other = (ProfileStarts.from_fleet(fleet(path, emulated_slowdown=s)) for s in (3, 8))
        assert fitting.begin(A, model, router.inspect().latency, router.inspect().energy)[2]
        with caplog.at_level(logging.WARNING):
            assert not other.begin(A, model, router.inspect().latency, router.inspect().energy)[2]
    assert "taken with the emulated slow-down 3, the server has 8" in caplog.text


async def test_what_has_no_entry_of_its_name_has_that_of_its_device_class(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(profile_of(server_profile("a"), server_profile("h100")), path)
    async with Router(SETTINGS, {A: server_with()}) as router:
        model, latency, energy = server_with().models[1], router.inspect().latency, router.inspect().energy
    for in_file, device_class, has_entry in (("a", None, True), ("b", "h100", True), ("b", "a10", False)):
        starts = ProfileStarts.from_fleet(fleet(path, name=in_file, device_class=device_class))
        starts.in_file = {"pod-0": in_file}
        for server in (in_file, "pod-0"):
            assert starts.begin(ServerName(server), model, latency, energy)[2] is has_entry


async def test_a_profile_that_can_not_be_used_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(ConfigError, match="no profile at"):
        Router.from_fleet(fleet(path))
    path.write_text('{"version": 1,')
    with pytest.raises(ConfigError, match="is no JSON"):
        Router.from_fleet(fleet(path))
    write_profile(profile_of(server_profile("a", origin=Origin.SYNTHETIC, models=(synthetic(),))), path)
    with pytest.raises(ConfigError, match="synthetic, which is for simulation"):
        Router.from_fleet(fleet(path))


def synthetic() -> ModelProfile:
    model = model_profile(100)
    return replace(model, batches=tuple(replace(batch, n=0) for batch in model.batches))
