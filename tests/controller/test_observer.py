"""From Triton, counters and telemetry to a snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.controller.demands import Demands
from orchestrator.controller.observer import Observation, Observer, follow_energy
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.planner.energy import EnergyAccount
from orchestrator.planner.host import Batching, ModelSnapshot, ModelStatus
from orchestrator.planner.rates import Counters, Rates
from orchestrator.snapshot import ModelName
from orchestrator.telemetry.reading import Reading
from tests.controller.status.reports import READING, full_report
from tests.controller.worlds import MIB, W025, W050, W100, now_s, triton
from tests.fakes.control import FakeTriton
from tests.fakes.traffic import Traffic

pytestmark = pytest.mark.virtual_time


class Watched:
    """An observer, and how to look at its host."""

    def __init__(self, server: Any, telemetry: Any = None) -> None:
        self.observer = Observer(server, telemetry or server.telemetry, clock=asyncio.get_running_loop().time)

    async def look(self, **arguments: Any) -> Observation:
        arguments = {"busy_models": frozenset(), "demands": Demands()} | arguments
        return await self.observer.observe(**arguments)

    async def model(self, name: ModelName, **arguments: Any) -> ModelSnapshot:
        snapshot = (await self.look(**arguments)).snapshot
        assert snapshot is not None
        return next(seen for seen in snapshot.models if seen.name == name)

    async def rates(self, name: ModelName) -> Rates:
        return (await self.model(name)).rates


async def test_a_snapshot_joins_files_server_telemetry_and_demands() -> None:
    server = triton(base_mib=100, instance_mib=64)
    server.preload(W025)
    server.utilisation_ratio = 0.25
    demands = Demands().hold(W100, 10, now_s=0)
    seen = await Watched(server).look(busy_models=frozenset({W050}), demands=demands)
    assert seen.trouble is None and seen.reading is not None and seen.snapshot is not None
    snapshot = seen.snapshot
    assert [model.model for model in snapshot.models] == list(server.repository)
    assert [model.loaded.status for model in snapshot.models] == [ModelStatus.READY] + [ModelStatus.ABSENT] * 3
    assert (snapshot.memory_used_bytes, snapshot.utilisation_ratio) == (164 * MIB, 0.25)
    assert (snapshot.server_id, snapshot.busy_models) == ("start-1", {W050})
    assert [model.demanded_until_s for model in snapshot.models] == [None, None, None, 10]


async def test_rates_are_of_the_window_since_the_last_reading() -> None:
    server = triton()
    server.preload(W025)
    watched = Watched(server)
    server.serve(W025, 100)
    assert await watched.rates(W025) == Rates(), "what was counted before the first look is of no window"
    await asyncio.sleep(2)
    server.serve(W025, 50, failures=4, service_s=0.02)
    rates = await watched.rates(W025)
    assert (rates.window_s, rates.requests_per_s, rates.failures_per_s) == (2, 25, 2)
    assert rates.busy_instances == pytest.approx(0.5)
    await asyncio.sleep(4)
    assert (await watched.rates(W025)) == Rates(window_s=4)


async def test_counters_that_began_again_are_what_came_since() -> None:
    server = triton()
    server.preload(W025)
    server.serve(W025, 100)
    watched = Watched(server)
    await watched.look()
    server.restart(W025)
    server.telemetry.is_process_visible = False  # so that only the counters show it
    server.serve(W025, 30)
    await asyncio.sleep(1)
    assert (await watched.rates(W025)).requests_per_s == 30


async def test_counters_of_a_new_server_start_no_window_even_when_they_are_larger() -> None:
    server = triton()
    server.preload(W025)
    server.serve(W025, 100)
    watched = Watched(server)
    await watched.look()
    server.restart(W025)
    server.serve(W025, 130)
    await asyncio.sleep(1)
    assert (await watched.rates(W025)).window_s == 0


async def test_a_series_that_vanished_starts_no_window_when_it_returns() -> None:
    server = triton()
    server.preload(W025)
    server.serve(W025, 100)
    watched = Watched(server)
    await watched.look()
    await server.unload(W025)
    assert await watched.rates(W025) == Rates()
    await server.apply(W025, instances=1, batching=Batching(), nonce="")
    server.serve(W025, 200)
    assert (await watched.rates(W025)).window_s == 0
    await asyncio.sleep(1)
    server.serve(W025, 5)
    assert (await watched.rates(W025)).requests_per_s == pytest.approx(5)


async def test_an_outage_of_the_metrics_leaves_rates_unmeasured_and_the_next_window_spans_it() -> None:
    server = triton()
    server.preload(W025)
    server.set_traffic(W025, Traffic(requests_per_s=10))
    watched = Watched(server)
    await watched.look()
    server.metrics_error = ServerUnavailableError("connection refused\nby 127.0.0.1:8002")
    for _ in range(3):
        await asyncio.sleep(1)
        seen = await watched.look()
        assert seen.trouble == (
            "only what needs no rates is done, metrics can't be read: connection refused by 127.0.0.1:8002"
        )
        assert seen.snapshot is not None
        assert all(model.rates == Rates() for model in seen.snapshot.models)
    server.metrics_error = None
    server.set_traffic(W025, None)
    await asyncio.sleep(2)
    rates = await watched.rates(W025)
    assert rates.window_s == 5 and rates.requests_per_s == pytest.approx(6)


@pytest.mark.parametrize(
    ("name", "error", "trouble"),
    [
        ("observe_error", ServerUnavailableError("refused"), "Triton can't be observed: refused"),
        ("repository_error", ConfigError("no config.pbtxt"), "Triton can't be observed: no config.pbtxt"),
    ],
)
async def test_without_triton_or_repository_there_is_no_snapshot(name: str, error: Exception, trouble: str) -> None:
    server = triton()
    setattr(server, name, error)
    seen = await Watched(server).look()
    assert (seen.snapshot, seen.trouble) == (None, trouble)
    assert seen.reading is not None, "the host can still be read"


async def test_live_instances_are_known_of_python_backends_only() -> None:
    server = triton()
    server.preload(W025)
    watched = Watched(server)
    server.kill_stub(W025)
    assert (await watched.model(W025)).live_instances == 0
    assert (await watched.model(W050)).live_instances is None
    server.telemetry.is_process_visible = False
    assert (await watched.model(W025)).live_instances is None, "unseen is not dead"
    server.telemetry.is_process_visible = True
    server.is_python_based = False
    assert (await watched.model(W025)).live_instances is None


class Silent(FakeTriton):
    """Answers none of the calls named in ``silent``."""

    silent: frozenset[str] = frozenset()

    async def loaded_models(self) -> Any:
        await self._hold_back("loaded_models")
        return await super().loaded_models()

    async def counters(self) -> Mapping[ModelName, Counters]:
        await self._hold_back("counters")
        return await super().counters()

    async def _hold_back(self, name: str) -> None:
        while name in self.silent:
            await asyncio.sleep(3600)


@pytest.mark.parametrize("name", ["loaded_models", "counters"])
async def test_no_call_is_waited_for_without_end(name: str) -> None:
    server = Silent(clock=asyncio.get_running_loop().time)
    server.silent = frozenset({name})
    seen = await Watched(server).look()
    assert now_s() == 5
    assert seen.trouble is not None and seen.trouble.endswith("no answer within 5 s")
    assert (seen.snapshot is None) == (name == "loaded_models")


class Broken:
    """Telemetry that raises or hangs, which it should not."""

    hangs = False

    async def read(self) -> Any:
        if self.hangs:
            await asyncio.sleep(3600)
        raise ZeroDivisionError("in a driver")


@pytest.mark.parametrize("hangs", [True, False])
async def test_telemetry_can_be_as_broken_as_it_likes(hangs: bool, caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Broken()
    telemetry.hangs = hangs
    with caplog.at_level(logging.ERROR):
        seen = await Watched(triton(), telemetry).look()
    assert seen.reading is None and seen.snapshot is not None and seen.trouble is None
    assert (seen.snapshot.memory_used_bytes, seen.snapshot.utilisation_ratio, seen.snapshot.server_id) == (None,) * 3
    assert ("ZeroDivisionError" in caplog.text) != hangs


class Lingering(FakeTriton):
    """Shows the counters of an unloaded model until its next load sets them back."""

    def __init__(self) -> None:
        super().__init__(clock=asyncio.get_running_loop().time)
        self.shown: dict[ModelName, Counters] = {}

    async def counters(self) -> Mapping[ModelName, Counters]:
        self.shown |= await super().counters()
        return dict(self.shown)


async def test_a_series_that_outlives_its_model_and_begins_again_counts_what_came_since() -> None:
    server = Lingering()
    server.preload(W025)
    server.serve(W025, 100)
    watched = Watched(server)
    await watched.look()
    await server.unload(W025)
    await asyncio.sleep(1)
    assert await watched.rates(W025) == Rates(), "what is not ready has no rates"
    before_s = now_s()
    await server.apply(W025, instances=1, batching=Batching(), nonce="")
    server.serve(W025, 28)
    assert (await watched.rates(W025)).requests_per_s == pytest.approx(28 / (now_s() - before_s))


def test_a_look_without_an_energy_reading_takes_no_request_from_the_account() -> None:
    seen = full_report().seen
    assert seen.snapshot is not None
    first, *rest = seen.snapshot.models
    rates = Rates(window_s=1.0, requests_per_s=10.0, executions_per_s=10.0, service_s=0.05)
    models = (replace(first, rates=rates), *(replace(m, rates=Rates()) for m in rest))
    account = EnergyAccount()
    for at_s, joules in ((0.0, 0.0), (1.0, 100.0), (2.0, None), (3.0, 300.0)):
        energy = Reading.absent("busy") if joules is None else Reading(joules, "nvml")
        look = replace(
            seen,
            at_s=at_s,
            trouble=None,
            reading=replace(READING, energy_j=energy),
            snapshot=replace(seen.snapshot, models=models),
        )
        account = follow_energy(account, look)
    assert account.of_request_j(first.name) == pytest.approx(10.0)
