"""The processes of a real tritonserver, with the repository that comes along."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil
import pytest

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import SlimError
from orchestrator.planner.host import Batching
from orchestrator.processes.process_table import read_command_line
from orchestrator.snapshot import ModelName
from orchestrator.telemetry import HostReading, TritonProcesses, open_telemetry
from orchestrator.telemetry.host import CpuTelemetry
from orchestrator.triton.client import TritonClient
from orchestrator.triton.control import TritonControl
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = ("fashion_w025", "fashion_w050", "fashion_w075", "fashion_w100")
COST_LIMIT_S = 0.005  # of a core's time for a read; measured: 0.4 ms
DEAR = ((psutil, "net_connections"), (psutil.Process, "children"), (psutil.Process, "memory_full_info"))
"""The first two look at every process of the host, the last at every page of one: milliseconds for each."""


def port_of(server: EmbeddedServer) -> int:
    return int(server.grpc_address.rpartition(":")[2])


async def wait_for(telemetry: CpuTelemetry, is_reached: Callable[[HostReading], bool]) -> HostReading:
    async with asyncio.timeout(60):
        while not is_reached(reading := await telemetry.read()):
            await asyncio.sleep(0.05)
    return reading


async def test_a_stub_dies_and_the_server_is_restarted(tritons: Tritons) -> None:
    with tritons.running(REPOSITORY, EmbeddedOptions()) as server:
        port = port_of(server)
        telemetry = open_telemetry("cpu", grpc_port=port, gpu=0)
        first = await telemetry.read()
        assert first.live_instances == dict.fromkeys(MODELS, 1)
        assert first.memory_used_bytes.value > 20 << 20
        assert first.memory_total_bytes.value > first.memory_used_bytes.value
        assert first.server_id is not None
        assert first.server_id.startswith(f"{server.pid}:")

        victim = next(pid for pid in server.stub_pids() if "fashion_w050_0_0" in read_command_line(pid))
        os.kill(victim, signal.SIGKILL)
        bereft = await wait_for(telemetry, lambda reading: sum(reading.live_instances.values()) == 3)
        assert bereft.live_instances == {model: 1 for model in MODELS if model != "fashion_w050"}
        assert bereft.server_id == first.server_id
        assert bereft.memory_used_bytes.value < first.memory_used_bytes.value
        later = await wait_for(telemetry, lambda reading: reading.utilisation_ratio.value is not None)
        assert 0 <= later.utilisation_ratio.value <= 1

    tritons.wait_ended()
    gone = await telemetry.read()
    assert gone.server_id is None
    assert gone.memory_used_bytes.reason == f"nobody listens on port {port} of this host"

    with tritons.running(REPOSITORY, EmbeddedOptions(grpc_port=port, models=MODELS[:1])):
        again = await wait_for(telemetry, lambda reading: reading.server_id is not None)
        assert again.server_id != first.server_id
        assert again.live_instances == {MODELS[0]: 1}
    await telemetry.close()


def stubs_of(server: EmbeddedServer) -> dict[int, str]:
    """Return the instance name of each stub that lives."""
    return {pid: line[8] for pid in server.stub_pids() if len(line := read_command_line(pid)) > 8}


@asynccontextmanager
async def traffic(server: EmbeddedServer, model: ModelName) -> AsyncIterator[None]:
    """Keep four requests under way; those that fail are sent again."""
    client = TritonClient(server.grpc_address)

    async def send() -> None:
        while True:
            try:
                async with asyncio.timeout(3):
                    await client.infer(model, {"pixels": np.zeros((16, 1, 28, 28), np.float32)}, ["logits"])
            except (SlimError, TimeoutError):
                await asyncio.sleep(0.02)

    senders = [asyncio.create_task(send()) for _ in range(4)]
    try:
        yield
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        await client.close()


async def test_stubs_that_a_repair_leaves_behind_are_not_alive(tritons: Tritons) -> None:
    model = ModelName("fashion_w100")
    with tritons.running(REPOSITORY, EmbeddedOptions(models=(), exit_timeout_s=3)) as server:
        control = TritonControl(server.grpc_address, server.metrics_url, server.repository)
        telemetry = open_telemetry("cpu", grpc_port=port_of(server))
        await control.apply(model, instances=2, batching=Batching(), nonce="one")
        await wait_for(telemetry, lambda reading: reading.live_instances == {model: 2})
        old = stubs_of(server)
        async with traffic(server, model):
            await asyncio.sleep(0.5)
            victim, orphan = old
            os.kill(victim, signal.SIGKILL)
            await wait_for(telemetry, lambda reading: reading.live_instances == {model: 1})
            await asyncio.sleep(1)
            await control.apply(model, instances=2, batching=Batching(), nonce="two")
            await asyncio.sleep(2)
        fresh = stubs_of(server)
        assert orphan in fresh, "Triton has learned to take it down: the workaround may go"
        serving = sorted(set(fresh) - set(old))
        assert len(serving) == 2
        assert (await telemetry.read()).live_instances == {model: 2}
        late = open_telemetry("cpu", grpc_port=port_of(server))
        assert (await late.read()).live_instances == {model: 2}
        for left, pid in enumerate(reversed(serving)):
            os.kill(pid, signal.SIGKILL)
            expected = {model: 1 - left} if left == 0 else {}
            await wait_for(telemetry, lambda reading, expected=expected: reading.live_instances == expected)
        assert psutil.pid_exists(orphan)
        await control.close()


async def test_counts_are_right_however_often_names_come_again(tritons: Tritons) -> None:
    model = ModelName("fashion_w025")
    names: list[list[str]] = []
    with tritons.running(REPOSITORY, EmbeddedOptions(models=(), exit_timeout_s=3)) as server:
        control = TritonControl(server.grpc_address, server.metrics_url, server.repository)
        telemetry = open_telemetry("cpu", grpc_port=port_of(server))
        for instances, nonce in ((1, ""), (2, ""), (1, ""), (2, ""), (3, ""), (2, ""), (3, "a"), (1, "a"), (2, "a")):
            await control.apply(model, instances=instances, batching=Batching(), nonce=nonce)
            await wait_for(telemetry, lambda reading, n=instances: reading.live_instances == {model: n})
            async with asyncio.timeout(60):
                while len(stubs_of(server)) != instances:  # the old ones of a reload are no longer counted, yet there
                    await asyncio.sleep(0.05)
            names.append(sorted(name.removeprefix(f"{model}_0_") for name in stubs_of(server).values()))
        assert names[:4] == [["0"], ["0", "1"], ["1"], ["1", "1"]], "a name is no instance's own"
        assert names[6] == ["0", "1", "2"], "a full reload begins at 0, and only that does"
        await control.close()


def test_a_server_that_is_known_is_read_without_any_call_that_is_dear(
    tritons: Tritons, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail("a read made a call that is dear")

    with tritons.running(REPOSITORY, EmbeddedOptions()) as server, monkeypatch.context() as patch:
        processes = TritonProcesses(port_of(server))
        assert processes.read().live_instances == dict.fromkeys(MODELS, 1)
        for owner, name in DEAR:
            patch.setattr(owner, name, refuse)
        for _ in range(10):
            assert processes.read().live_instances == dict.fromkeys(MODELS, 1)
        began_s = time.thread_time()
        for _ in range(100):
            processes.read()
        assert (time.thread_time() - began_s) / 100 < COST_LIMIT_S
