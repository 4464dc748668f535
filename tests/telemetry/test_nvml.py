"""NVML through pynvml's real ctypes path, against a stand-in library."""

from pathlib import Path

import pytest

from tests.telemetry.gpu import GIB, FakeGpu, reason, value

FIELDS = ("memory_used_bytes", "memory_total_bytes", "utilisation_ratio", "power_w", "energy_j")


def test_every_value_in_its_unit_and_with_its_source(gpu: FakeGpu) -> None:
    reading = gpu.read()
    assert value(reading, "memory_used_bytes") == (10 * GIB, "nvml"), "without what the driver reserves"
    assert value(reading, "memory_total_bytes") == (80 * GIB, "nvml")
    assert value(reading, "utilisation_ratio") == (0.37, "nvml")
    assert value(reading, "power_w") == (251.5, "nvml-power-instant")
    assert value(reading, "energy_j") == (5000, "nvml-energy-counter")
    assert reading["server_id"] is None
    assert reading["live_instances"] is None


@pytest.mark.parametrize(
    ("fields", "usage", "expected"),
    [
        ("0 186 3 0 185 0 240000", "0 245000", (240, "nvml-power-average")),
        ("0 186 0 0 185 0 240000", "0 245000", (240, "nvml-power-average")),
        ("0 186 3 0 185 999 0", "0 245000", (245, "nvml-power-usage")),
        ("3", "0 245000", (245, "nvml-power-usage")),
        ("13", "0 245000", (245, "nvml-power-usage")),
    ],
    ids=["instant unsupported", "instant is 0", "both fields fail", "call fails", "driver older than fields"],
)
def test_power_falls_back_and_says_so(gpu: FakeGpu, fields: str, usage: str, expected: tuple[float, str]) -> None:
    gpu.answer(nvmlDeviceGetFieldValues=fields, nvmlDeviceGetPowerUsage=usage)
    assert value(gpu.read(), "power_w") == expected


def test_power_that_is_nowhere_is_absent_in_nvmls_words(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetFieldValues="3", nvmlDeviceGetPowerUsage="4")
    assert reason(gpu.read(), "power_w") == "GPU 0: Insufficient Permissions (nvmlDeviceGetPowerUsage)"
    gpu.answer(nvmlDeviceGetPowerUsage="0 0")
    assert "0 W, which is no measurement" in reason(gpu.read(), "power_w")


def test_energy_is_integrated_where_there_is_no_counter(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="3", nvmlDeviceGetFieldValues="0 186 0 100000")
    first, source = value(gpu.read(), "energy_j")
    assert source == "nvml-power-integrated"
    gpu.answer(nvmlDeviceGetFieldValues="0 186 0 200000")
    second, _ = value(gpu.read(after_s=2), "energy_j")
    assert second - first == pytest.approx(300)
    third, _ = value(gpu.read(after_s=0.5), "energy_j")
    assert third - second == pytest.approx(100)


def test_energy_without_counter_and_power_is_absent(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="3", nvmlDeviceGetFieldValues="3", nvmlDeviceGetPowerUsage="3")
    reading = gpu.read()
    assert "Not Supported" in reason(reading, "energy_j")
    assert "Not Supported" in reason(reading, "power_w")
    assert value(reading, "utilisation_ratio")


def test_a_counter_that_fails_once_is_not_replaced_by_another_scale(gpu: FakeGpu) -> None:
    before, _ = value(gpu.read(), "energy_j")
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="999")
    assert "Unknown Error" in reason(gpu.read(), "energy_j")
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="0 5250000")
    after, source = value(gpu.read(), "energy_j")
    assert (after - before, source) == (250, "nvml-energy-counter")


def test_a_counter_that_starts_anew_does_not_take_energy_back(gpu: FakeGpu) -> None:
    before, _ = value(gpu.read(), "energy_j")
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="0 7000")
    assert value(gpu.read(), "energy_j")[0] - before == 7
    gpu.answer(nvmlDeviceGetTotalEnergyConsumption="0 9000")
    assert value(gpu.read(), "energy_j")[0] - before == 9


def test_memory_falls_back_to_the_first_version(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetMemoryInfo_v2="13")
    assert value(gpu.read(), "memory_used_bytes") == (11 * GIB, "nvml")
    gpu.answer(nvmlDeviceGetMemoryInfo_v2="25")
    assert value(gpu.read(), "memory_used_bytes") == (11 * GIB, "nvml")
    gpu.answer(nvmlDeviceGetMemoryInfo_v2="4")
    assert "Insufficient Permissions" in reason(gpu.read(), "memory_used_bytes")


def test_under_mig_what_belongs_to_the_whole_board_is_absent(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetMigMode="0 1 1", nvmlDeviceGetUtilizationRates="3")
    reading = gpu.read()
    for field in ("utilisation_ratio", "power_w", "energy_j"):
        assert "MIG is enabled on GPU 0" in reason(reading, field)
    assert value(reading, "memory_used_bytes")
    gpu.answer(nvmlDeviceGetMigMode="0 0 1", nvmlDeviceGetUtilizationRates="0 5 0")
    assert value(gpu.read(), "utilisation_ratio") == (0.05, "nvml"), "pending is not enabled"


def test_a_gpu_that_does_not_show_its_utilisation_says_so_and_shows_the_rest(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetUtilizationRates="3")
    reading = gpu.read()
    assert reason(reading, "utilisation_ratio") == "GPU 0: Not Supported (nvmlDeviceGetUtilizationRates)"
    assert value(reading, "power_w")


@pytest.mark.parametrize(("code", "words"), [("15", "GPU is lost"), ("1", "Uninitialized"), ("16", "requires restart")])
def test_a_lost_gpu_is_found_again(gpu: FakeGpu, code: str, words: str) -> None:
    before, _ = value(gpu.read(), "energy_j")
    healthy = "0 37 12"
    gpu.answer(nvmlDeviceGetUtilizationRates=code)
    assert words in reason(gpu.read(), "utilisation_ratio")
    gpu.answer(nvmlInit="9")
    for field in FIELDS:
        assert reason(gpu.read(), field) == "NVML can't be used: Driver Not Loaded (nvmlInit)"
    # The stand-in refuses handles from before a restart, as NVML does: this passes only with a new one.
    gpu.answer(nvmlInit="0", nvmlDeviceGetUtilizationRates=healthy, nvmlDeviceGetTotalEnergyConsumption="0 3000")
    reading = gpu.read()
    assert value(reading, "utilisation_ratio") == (0.37, "nvml")
    assert value(reading, "energy_j")[0] - before == 3


def test_a_gpu_is_found_by_its_uuid_and_named_by_it(gpu: FakeGpu) -> None:
    gpu.open("GPU-5f2c")
    assert value(gpu.read(), "power_w") == (251.5, "nvml-power-instant")
    gpu.answer(nvmlDeviceGetPowerUsage="3", nvmlDeviceGetFieldValues="3")
    assert reason(gpu.read(), "power_w") == "GPU-5f2c: Not Supported (nvmlDeviceGetPowerUsage)"


def test_of_a_mig_instance_the_memory_is_its_own_and_what_belongs_to_the_board_is_absent(gpu: FakeGpu) -> None:
    gpu.open("MIG-77c0")
    reading = gpu.read()
    assert value(reading, "memory_used_bytes") == (10 * GIB, "nvml")
    for field in ("utilisation_ratio", "power_w", "energy_j"):
        assert reason(reading, field) == "MIG is enabled on MIG-77c0: NVML tells no instance's share"


def test_a_uuid_that_is_no_gpus_is_named_with_the_reason(gpu: FakeGpu) -> None:
    gpu.open("GPU-5f2c")
    gpu.answer(nvmlDeviceGetHandleByUUID="6")
    assert reason(gpu.read(), "power_w") == "GPU-5f2c can't be reached: Not Found (nvmlDeviceGetHandleByUUID)"


def test_an_index_out_of_range_is_named_until_there_is_such_a_gpu(gpu: FakeGpu) -> None:
    gpu.open(2)
    reading = gpu.read()
    for field in FIELDS:
        assert reason(reading, field) == "there is no GPU 2: NVML tells of 2, counted from 0"
    gpu.answer(nvmlDeviceGetCount="0 3")
    assert value(gpu.read(), "power_w")


def test_a_gpu_that_may_not_be_opened_is_told_and_read_once_it_may(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetHandleByIndex="4")
    assert "Insufficient Permissions (nvmlDeviceGetHandleByIndex)" in reason(gpu.read(), "power_w")
    gpu.answer(nvmlDeviceGetHandleByIndex="0")
    assert value(gpu.read(), "power_w")


def test_an_error_newer_than_pynvml_is_reported_in_the_librarys_words(gpu: FakeGpu) -> None:
    gpu.answer(nvmlDeviceGetUtilizationRates="21")
    assert "No data" in reason(gpu.read(), "utilisation_ratio")


def test_without_the_library_the_reason_is_given_at_each_read(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")  # hides the real one, where there is one
    with FakeGpu(tmp_path, tmp_path) as gpu:
        for _ in range(2):
            assert reason(gpu.read(), "power_w") == "NVML can't be used: NVML Shared Library Not Found (nvmlInit)"


def test_a_gpu_that_was_closed_is_read_again(gpu: FakeGpu) -> None:
    gpu.read()
    gpu.close()
    gpu.close()
    assert value(gpu.read(), "power_w")


def test_a_call_that_hangs_costs_one_thread_and_is_got_over(gpu: FakeGpu) -> None:
    gpu.open(0, timeout_s=0.2)
    gpu.answer(nvmlDeviceGetUtilizationRates="hang")
    assert reason(gpu.read(), "power_w") == "the GPU did not answer within 0.2 s"
    for _ in range(20):
        reading = gpu.read()
        assert "still hangs" in reason(reading, "power_w")
        assert reading["threads"].count("read the GPU") == 1
    gpu.close()  # must not wait for it either
    gpu.answer(nvmlDeviceGetUtilizationRates="0 50 0")
    while reading["power_w"]["value"] is None:
        reading = gpu.read()
    assert value(reading, "utilisation_ratio") == (0.5, "nvml")


def test_a_process_ends_while_a_call_hangs(fake_nvml: Path, tmp_path: Path) -> None:
    with FakeGpu(fake_nvml, tmp_path) as gpu:
        gpu.open(0, timeout_s=0.2)
        gpu.answer(nvmlInit="hang")
        assert "did not answer" in reason(gpu.read(), "power_w")
