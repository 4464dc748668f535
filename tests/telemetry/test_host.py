"""The telemetry of a host: what is put together, and that nothing hangs or raises."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.telemetry import HostReading, Reading, Telemetry, open_telemetry
from orchestrator.telemetry.bounded import BoundedReader
from orchestrator.telemetry.host import CpuTelemetry, GpuTelemetry, describe_cpu, describe_gpu
from orchestrator.telemetry.powercap import Powercap
from tests.telemetry.processes import FakeTriton

ELSEWHERE = "Triton isn't on this host"


class Gpu:
    """A GPU whose reads wait for a gate, and fail on demand."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.reads = 0
        self.closes = 0
        self.error: Exception | None = None

    def read(self) -> HostReading:
        self.reads += 1
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return HostReading(*(Reading(number, "fake") for number in (1, 2, 0.5, 4, 5)))

    def close(self) -> None:
        self.closes += 1


async def test_a_cpu_host_shows_its_memory_utilisation_power_and_instances(
    start_triton: Callable[..., FakeTriton], tmp_path: Path
) -> None:
    triton = start_triton()
    triton.spawn("m_0_0")
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in {"name": "package-0", "energy_uj": "7", "max_energy_range_uj": "1000"}.items():
        (zone / name).write_text(text)
    telemetry: Telemetry = CpuTelemetry(triton.port, Powercap(tmp_path))
    await telemetry.read()
    await asyncio.sleep(0.06)
    reading = await telemetry.read()
    assert reading.memory_used_bytes.value > 0
    assert reading.memory_total_bytes.value > reading.memory_used_bytes.value
    assert 0 <= reading.utilisation_ratio.value <= 1
    assert reading.power_w == Reading(0, "rapl")
    assert reading.energy_j == Reading(0, "rapl")
    assert reading.server_id is not None
    assert reading.live_instances == {"m": 1}


async def test_a_gpu_host_shows_its_gpu_and_the_instances_and_lets_go_of_the_gpu_when_closed(
    start_triton: Callable[..., FakeTriton],
) -> None:
    triton = start_triton()
    triton.spawn("m_0_0")
    gpu = Gpu()
    telemetry = GpuTelemetry(gpu, triton.port)
    reading = await telemetry.read()
    assert [reading.memory_used_bytes.value, reading.memory_total_bytes.value] == [1, 2]
    assert [reading.utilisation_ratio.value, reading.power_w.value, reading.energy_j.value] == [0.5, 4, 5]
    assert reading.server_id is not None
    assert reading.live_instances == {"m": 1}
    await telemetry.close()
    assert gpu.closes == 1


async def test_a_gpu_that_hangs_takes_only_its_own_readings_along(start_triton: Callable[..., FakeTriton]) -> None:
    triton = start_triton()
    triton.spawn("m_0_0")
    gpu = Gpu()
    gpu.gate.clear()
    telemetry = GpuTelemetry(gpu, triton.port, timeout_s=0.1)
    reading = await telemetry.read()
    assert reading.power_w == Reading.absent("the GPU did not answer within 0.1 s")
    for _ in range(5):
        reading = await telemetry.read()
        assert "still hangs" in reading.energy_j.reason, "which is said at once"
    assert gpu.reads == 1, "one thread hangs, not five more"
    await telemetry.close()
    assert gpu.closes == 0, "never during a read"
    gpu.gate.set()
    while (reading := await telemetry.read()).power_w.value is None:
        await asyncio.sleep(0.01)
    assert reading.power_w.value == 4
    assert gpu.reads == 2, "what came late is old and was thrown away"


async def test_what_an_adapter_missed_is_a_reason_and_no_crash() -> None:
    gpu = Gpu()
    gpu.error = ValueError("odd")
    telemetry = GpuTelemetry(gpu, None)
    reading = await telemetry.read()
    assert reading.power_w.reason == "the GPU can't be read: ValueError: odd"
    assert reading.server_id is None
    gpu.error = None
    assert (await telemetry.read()).power_w.value == 4


async def test_callers_at_the_same_time_share_one_read() -> None:
    gpu = Gpu()
    gpu.gate.clear()
    telemetry = GpuTelemetry(gpu, None, timeout_s=5)
    readers = [asyncio.create_task(telemetry.read()) for _ in range(3)]
    await asyncio.sleep(0.05)
    gpu.gate.set()
    assert {reading.power_w.value for reading in await asyncio.gather(*readers)} == {4}
    assert gpu.reads == 1


async def test_a_cancelled_reader_leaves_the_others_alone() -> None:
    gate = threading.Event()
    reader = BoundedReader("it", lambda: str(gate.wait()), str, timeout_s=5)
    first, second = asyncio.create_task(reader.read()), asyncio.create_task(reader.read())
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert reader.is_busy
    gate.set()
    assert await second == "True"


def test_a_late_answer_after_the_loops_end_is_nobodys() -> None:
    gate = threading.Event()
    reader = BoundedReader("it", lambda: str(gate.wait()), str, timeout_s=0.01)
    assert asyncio.run(reader.read()) == "it did not answer within 0.01 s"
    gate.set()
    assert asyncio.run(_read_until(reader, "True")) == "True", "and another loop may go on with it"


async def _read_until(reader: BoundedReader[str], wanted: str) -> str:
    while (answer := await reader.read()) != wanted:
        await asyncio.sleep(0.01)
    return answer


async def test_opened_for_a_triton_elsewhere() -> None:
    cpu = open_telemetry("cpu", grpc_port=None, gpu=0)
    reading = await cpu.read()
    assert reading.memory_used_bytes.reason == reading.utilisation_ratio.reason == ELSEWHERE
    assert reading.memory_total_bytes.value > 0
    await cpu.close()


async def test_opened_for_a_gpu_that_is_not_there() -> None:
    gpu = open_telemetry("gpu", grpc_port=None, gpu=4096)
    reading = await gpu.read()
    assert reading.power_w.value is None
    assert reading.power_w.reason
    await gpu.close()


def test_a_cpu_is_described_by_its_model_and_how_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast 9000\nmodel name\t: Fast 9000\n")
    cpus = len(os.sched_getaffinity(0))
    assert describe_cpu(path) == f"Fast 9000, {cpus} CPUs"
    assert describe_cpu(tmp_path / "absent").endswith(f", {cpus} CPUs")


def test_a_gpu_that_is_not_there_is_unknown() -> None:
    assert describe_gpu(4711).startswith("unknown: ")
