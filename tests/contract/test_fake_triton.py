"""What FakeTriton does beyond the contract: the troubles and the memory that the controller's tests are made of."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.controller.ports import ModelControl
from orchestrator.errors import PermanentError, ServerUnavailableError
from orchestrator.planner.host import Batching, ModelStatus
from orchestrator.planner.rates import measure_rates
from orchestrator.snapshot import ModelName
from orchestrator.telemetry import Telemetry
from tests.fakes.control import MIB, FakeTriton
from tests.fakes.traffic import Traffic

pytestmark = pytest.mark.virtual_time
A, B = ModelName("fashion_w025"), ModelName("fashion_w100")
NONE = Batching()


def build() -> FakeTriton:
    return FakeTriton(clock=asyncio.get_running_loop().time, instance_mib=10, base_mib=100)


async def status(server: FakeTriton, model: ModelName = A) -> ModelStatus:
    return {loaded.name: loaded.status for loaded in await server.loaded_models()}[model]


async def test_it_stands_behind_the_protocols() -> None:
    control: ModelControl = build()
    telemetry: Telemetry = build().telemetry
    assert len(control.repository_models()) == 4
    assert (await telemetry.read()).memory_used_bytes.value == 100 * MIB


async def test_a_reload_holds_old_and_new_and_an_unload_may_leak() -> None:
    server = build()
    server.leak_bytes, server.release_s = 3 * MIB, 2.0
    await server.apply(A, instances=2, batching=NONE, nonce="")
    assert (server.memory_bytes(), server.peak_bytes) == (120 * MIB, 120 * MIB)
    await server.apply(A, instances=3, batching=NONE, nonce="")
    assert (server.memory_bytes(), server.peak_bytes) == (130 * MIB, 130 * MIB)
    await server.apply(A, instances=3, batching=Batching((4,)), nonce="")
    assert (server.memory_bytes(), server.peak_bytes) == (160 * MIB, 160 * MIB)
    await asyncio.sleep(2.0)
    assert server.memory_bytes() == 130 * MIB
    await server.unload(A)
    await asyncio.sleep(2.0)
    assert server.memory_bytes() == 103 * MIB
    assert [call.kind for call in server.calls] == ["load", "in-place", "reload", "unload"]


async def test_a_dead_stub_fails_its_share_until_a_full_reload() -> None:
    server = build()
    await server.apply(A, instances=2, batching=NONE, nonce="")
    server.kill_stub(A)
    server.set_traffic(A, Traffic(requests_per_s=10))
    await asyncio.sleep(10)
    counters = (await server.counters())[A]
    assert (counters.requests, counters.failures) == (50, 50)
    await server.apply(A, instances=1, batching=NONE, nonce="")
    assert server.live_instances() == {}
    await server.apply(A, instances=1, batching=NONE, nonce="x")
    assert server.live_instances() == {A: 1}


async def test_a_reload_after_a_death_leaves_the_living_siblings_in_memory() -> None:
    server = build()
    await server.apply(A, instances=3, batching=NONE, nonce="")
    server.kill_stub(A)
    await server.apply(A, instances=3, batching=NONE, nonce="x")
    assert server.live_instances() == {A: 3}
    assert server.memory_bytes() == (100 + 30 + 20) * MIB
    await server.apply(A, instances=3, batching=NONE, nonce="y")
    await server.unload(A)
    await asyncio.sleep(1e6)
    assert (server.live_instances(), server.memory_bytes()) == ({}, (100 + 20) * MIB)
    server.restart()
    assert server.memory_bytes() == 100 * MIB


async def test_what_the_instances_can_not_take_waits() -> None:
    server = build()
    await server.apply(A, instances=1, batching=NONE, nonce="")
    server.set_traffic(A, Traffic(requests_per_s=150, service_s=0.01))
    before = (await server.counters())[A]
    await asyncio.sleep(2)
    rates = measure_rates(before, (await server.counters())[A], 2.0)
    assert rates.requests_per_s == pytest.approx(100)
    assert rates.busy_instances == pytest.approx(1)
    assert rates.waiting_requests == pytest.approx(100)
    assert server.busy_ratio() == 0.25


async def test_a_hanging_load_ends_with_the_server_only() -> None:
    server = build()
    server.hang(A)
    call = asyncio.create_task(server.apply(A, instances=1, batching=NONE, nonce=""))
    await asyncio.sleep(1000)
    assert await status(server) is ModelStatus.LOADING
    call.cancel()
    await asyncio.sleep(1000)
    assert await status(server) is ModelStatus.LOADING, "a caller that gives up stops nothing"
    second = asyncio.create_task(server.apply(A, instances=1, batching=NONE, nonce=""))
    await asyncio.sleep(1)
    server.restart(B)
    with pytest.raises(ServerUnavailableError):
        await second
    assert (await status(server), await status(server, B)) == (ModelStatus.ABSENT, ModelStatus.READY)
    assert (await server.telemetry.read()).server_id == "start-2"


async def test_configs_fail_on_demand() -> None:
    server = build()
    server.rejects = lambda model, instances, batching: "too large" if instances > 2 else None
    with pytest.raises(PermanentError, match="too large"):
        await server.apply(A, instances=3, batching=NONE, nonce="")
    assert await status(server) is ModelStatus.FAILED
    await server.apply(A, instances=2, batching=NONE, nonce="")
    server.fail_next(A, "no luck")
    with pytest.raises(PermanentError, match="no luck"):
        await server.apply(A, instances=1, batching=NONE, nonce="")
    assert await status(server) is ModelStatus.READY
    assert [call.error is None for call in server.calls] == [False, True, False]


async def test_warm_up_counts() -> None:
    server = build()
    server.warm_up_requests = 65
    await server.apply(A, instances=2, batching=NONE, nonce="")
    await server.apply(A, instances=3, batching=NONE, nonce="")
    assert (await server.counters())[A].requests == 3 * 65


async def test_a_server_that_is_gone_can_not_be_read() -> None:
    server = build()
    server.kill()
    reading = await server.telemetry.read()
    assert (reading.memory_used_bytes.value, reading.server_id, reading.live_instances) == (None, None, None)
    with pytest.raises(ServerUnavailableError):
        await server.loaded_models()
