"""NVML on a real GPU."""

import asyncio
import time

import pytest

from orchestrator.telemetry import open_telemetry
from orchestrator.telemetry.nvml import NvmlDevice

PRESENCE = NvmlDevice(0).read().memory_total_bytes
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PRESENCE.value is None, reason=f"needs an NVIDIA GPU: {PRESENCE.reason}"),
]


async def test_a_gpu_describes_itself_in_plausible_numbers() -> None:
    telemetry = open_telemetry("gpu", grpc_port=None, gpu=0)
    first = await telemetry.read()
    await asyncio.sleep(2)
    second = await telemetry.read()
    await telemetry.close()
    print(second)
    assert 1 << 30 <= second.memory_total_bytes.value < 1 << 40
    assert 0 <= second.memory_used_bytes.value < second.memory_total_bytes.value
    for reading in (second.utilisation_ratio, second.power_w, second.energy_j):
        assert (reading.value is None) == bool(reading.reason)
    if second.utilisation_ratio.value is not None:
        assert 0 <= second.utilisation_ratio.value <= 1
    if second.power_w.value is not None:
        assert 1 < second.power_w.value < 3000
    if second.energy_j.value is not None and second.power_w.value is not None:
        drawn_w = (second.energy_j.value - first.energy_j.value) / 2
        assert 0.2 * second.power_w.value < drawn_w < 5 * second.power_w.value, "the two agree in order of magnitude"


def test_reads_one_after_another_tell_of_the_same_gpu_and_its_energy_never_falls() -> None:
    device = NvmlDevice(0)
    device.read()
    began_s = time.thread_time()
    readings = [device.read() for _ in range(10)]
    assert (time.thread_time() - began_s) / 10 < 0.1  # of a core's time: cheap enough for once a second
    device.close()
    assert {reading.memory_total_bytes.value for reading in readings} == {PRESENCE.value}
    energies_j = [reading.energy_j.value for reading in readings if reading.energy_j.value is not None]
    assert energies_j == sorted(energies_j)


def test_a_device_that_was_closed_is_opened_again() -> None:
    device = NvmlDevice(0)
    device.close()
    for _ in range(2):
        assert device.read().memory_total_bytes.value is not None
        device.close()


def test_an_index_beyond_all_gpus_is_named() -> None:
    assert "there is no GPU 4096" in NvmlDevice(4096).read().power_w.reason
