"""The processes of a real tritonserver, with the repository that comes along."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.telemetry import CpuTelemetry, HostReading, TritonProcesses, open_telemetry
from orchestrator.triton.embedded import EmbeddedOptions, EmbeddedServer
from orchestrator.triton.guardian import read_command_line

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = ("fashion_w025", "fashion_w050", "fashion_w075", "fashion_w100")
COST_LIMIT_S = 0.005  # measured: 0.4 ms


def port_of(server: EmbeddedServer) -> int:
    return int(server.grpc_address.rpartition(":")[2])


async def wait_for(telemetry: CpuTelemetry, is_reached: Callable[[HostReading], bool]) -> HostReading:
    async with asyncio.timeout(10):
        while not is_reached(reading := await telemetry.read()):
            await asyncio.sleep(0.05)
    return reading


async def test_a_stub_dies_and_the_server_is_restarted() -> None:
    async with EmbeddedServer(REPOSITORY) as server:
        port = port_of(server)
        telemetry = open_telemetry("cpu", grpc_port=port, gpu_index=0)
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

    gone = await telemetry.read()
    assert gone.server_id is None
    assert gone.memory_used_bytes.reason == f"nobody listens on port {port} of this host"

    async with EmbeddedServer(REPOSITORY, EmbeddedOptions(grpc_port=port, models=MODELS[:1])):
        again = await wait_for(telemetry, lambda reading: reading.server_id is not None)
        assert again.server_id != first.server_id
        assert again.live_instances == {MODELS[0]: 1}
    await telemetry.close()


async def test_a_read_costs_next_to_nothing() -> None:
    async with EmbeddedServer(REPOSITORY) as server:
        processes = TritonProcesses(port_of(server))
        processes.read()
        began_s = time.thread_time()
        for _ in range(100):
            processes.read()
        each_s = (time.thread_time() - began_s) / 100
        print(f"{each_s * 1e3:.2f} ms of CPU time a read")
        assert each_s < COST_LIMIT_S
