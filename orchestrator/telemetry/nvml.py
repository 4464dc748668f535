"""One NVIDIA GPU through NVML (package nvidia-ml-py, module `pynvml`).

Every value stands alone: what a GPU doesn't support, or a call that fails, makes that one reading absent with NVML's
words. An error that says the connection is worthless (the GPU fell off the bus, the driver was reloaded) drops it,
and the next read starts from `nvmlInit`.

Traps, from NVML's documentation and Zeus:

- `nvmlDeviceGetPowerUsage` is an average over a second on Ampere and newer, an instant value elsewhere; the field
  values say which, so they come first. Each field carries its own return code, beside the call's.
- Utilisation is the share of time with at least one kernel running, over a window of 1/6 to 1 s: not occupancy.
- Under MIG, power, energy and utilisation are the whole board's or nobody's, never an instance's.
- `nvmlDeviceGetMemoryInfo` counts what the driver reserves as used in its first version, apart in its second.
- The energy counter starts anew with the driver; the total here never falls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pynvml
from pynvml import NVMLError

from orchestrator.telemetry.reading import HostReading, Reading

SOURCE = "nvml"
MW_PER_W = 1e3
MJ_PER_J = 1e3
PERCENT = 100
_MIG_UUID = "MIG-"  # what the UUID of an instance begins with

POWER_FIELDS = (
    (pynvml.NVML_FI_DEV_POWER_INSTANT, "nvml-power-instant"),
    (pynvml.NVML_FI_DEV_POWER_AVERAGE, "nvml-power-average"),
)
MISSING = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
DISCONNECTED = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)


def find_handle(gpu: int | str) -> Any:
    """Return NVML's handle of a GPU, by its index or UUID, once it is initialised; raises NVMLError."""
    by_uuid = isinstance(gpu, str)
    return pynvml.nvmlDeviceGetHandleByUUID(gpu) if by_uuid else pynvml.nvmlDeviceGetHandleByIndex(gpu)


class NvmlDevice:
    """One GPU of this host. Its methods block, and are not for two threads at a time.

    It is known by its index in NVML, by the PCI bus, which ``CUDA_VISIBLE_DEVICES`` doesn't change; or by a UUID, of a
    GPU or of a MIG instance.
    """

    def __init__(self, gpu: int | str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu = gpu
        self._name = f"GPU {gpu}" if isinstance(gpu, int) else gpu
        self._clock = clock
        self._handle: Any = None
        self._is_connected = False
        self._is_worthless = False
        self._energy = _Energy()

    def read(self) -> HostReading:
        """Return what the GPU shows; never raises."""
        reason = self._connect()
        if reason:
            return HostReading.absent(reason)
        used, total = self._read_memory()
        if self._is_mig():
            whole = f"MIG is enabled on {self._name}: NVML tells no instance's share"
            utilisation = power = energy = Reading.absent(whole)
        else:
            utilisation, power = self._read_utilisation(), self._read_power()
            energy = self._read_energy(power)
        if self._is_worthless:
            self.close()
        return HostReading(used, total, utilisation, power, energy)

    def close(self) -> None:
        """Let go of NVML; the next read takes it up again."""
        if self._is_connected:
            with contextlib.suppress(NVMLError):
                pynvml.nvmlShutdown()
        self._handle, self._is_connected, self._is_worthless = None, False, False
        self._energy.interrupt()

    def _connect(self) -> str:
        """Make sure of a handle; return the reason why there is none, empty when there is."""
        if self._handle is not None:
            return ""
        try:
            pynvml.nvmlInit()
        except NVMLError as exc:
            return f"NVML can't be used: {exc} (nvmlInit)"
        self._is_connected = True
        try:
            count = pynvml.nvmlDeviceGetCount()
            if isinstance(self._gpu, str) or 0 <= self._gpu < count:
                self._handle = find_handle(self._gpu)
                return ""
            reason = f"there is no {self._name}: NVML tells of {count}, counted from 0"
        except NVMLError as exc:
            how = "nvmlDeviceGetHandleBy" + ("UUID" if isinstance(self._gpu, str) else "Index")
            reason = f"{self._name} can't be reached: {exc} ({how})"
        self.close()
        return reason

    def _absent(self, exc: NVMLError, call: str) -> Reading:
        self._is_worthless |= exc.value in DISCONNECTED
        return Reading.absent(f"{self._name}: {exc} ({call})")

    def _is_mig(self) -> bool:
        if str(self._gpu).startswith(_MIG_UUID):
            return True
        try:
            current, _pending = pynvml.nvmlDeviceGetMigMode(self._handle)
        except NVMLError:
            return False  # a GPU that has no such mode; if it is worse than that, the calls to come will show it
        return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)

    def _read_memory(self) -> tuple[Reading, Reading]:
        try:
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle, version=pynvml.nvmlMemory_v2)
            except NVMLError as exc:
                if exc.value not in MISSING | {pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}:
                    raise
                memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        except NVMLError as exc:
            nothing = self._absent(exc, "nvmlDeviceGetMemoryInfo")
            return nothing, nothing
        return Reading(float(memory.used), SOURCE), Reading(float(memory.total), SOURCE)

    def _read_utilisation(self) -> Reading:
        try:
            rates = pynvml.nvmlDeviceGetUtilizationRates(self._handle)
        except NVMLError as exc:
            return self._absent(exc, "nvmlDeviceGetUtilizationRates")
        return Reading(min(rates.gpu, PERCENT) / PERCENT, SOURCE)

    def _read_power(self) -> Reading:
        """The first of instant, average and plain usage that is above 0: no GPU that answers draws nothing."""
        for power_mw, source in self._read_power_fields():
            if power_mw > 0:
                return Reading(power_mw / MW_PER_W, source)
        try:
            power_mw = pynvml.nvmlDeviceGetPowerUsage(self._handle)
        except NVMLError as exc:
            return self._absent(exc, "nvmlDeviceGetPowerUsage")
        if power_mw > 0:
            return Reading(power_mw / MW_PER_W, "nvml-power-usage")
        return Reading.absent(f"{self._name}: NVML tells 0 W, which is no measurement (nvmlDeviceGetPowerUsage)")

    def _read_power_fields(self) -> list[tuple[float, str]]:
        try:
            values = pynvml.nvmlDeviceGetFieldValues(self._handle, [field for field, _ in POWER_FIELDS])
        except NVMLError as exc:
            self._is_worthless |= exc.value in DISCONNECTED
            return []  # drivers before the fields; the plain call gives the reason if it fails as well
        return [
            (_field_value(value), source)
            for value, (_, source) in zip(values, POWER_FIELDS, strict=True)
            if value.nvmlReturn == pynvml.NVML_SUCCESS
        ]

    def _read_energy(self, power: Reading) -> Reading:
        try:
            counter_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / MJ_PER_J
        except NVMLError as exc:
            absent = self._absent(exc, "nvmlDeviceGetTotalEnergyConsumption")
            if exc.value not in MISSING or power.value is None:
                return absent
            return Reading(self._energy.integrate(power.value, self._clock()), "nvml-power-integrated")
        return Reading(self._energy.follow(counter_j), "nvml-energy-counter")


class _Energy:
    """A total that never falls, out of a counter that may start anew, or of power over time."""

    def __init__(self) -> None:
        self._total_j = 0.0
        self._counter_j: float | None = None
        self._power: tuple[float, float] | None = None

    def follow(self, counter_j: float) -> float:
        """Return the total after the counter has moved on; one that fell has started anew from 0."""
        has_restarted = self._counter_j is not None and counter_j < self._counter_j
        self._total_j += counter_j if has_restarted else counter_j - (self._counter_j or 0.0)
        self._counter_j = counter_j
        return self._total_j

    def integrate(self, power_w: float, now_s: float) -> float:
        """Return the total after the time since the last call, by the trapezoid between the two powers."""
        if self._power is not None:
            last_w, last_s = self._power
            self._total_j += (last_w + power_w) / 2 * (now_s - last_s)
        self._power = (power_w, now_s)
        return self._total_j

    def interrupt(self) -> None:
        """Forget the last power: what was drawn while nobody could look is unknown."""
        self._power = None


def _field_value(field: Any) -> float:
    """Return the number of a field value, whose type stands beside it."""
    value = field.value
    members = {
        pynvml.NVML_VALUE_TYPE_DOUBLE: value.dVal,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: value.uiVal,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: value.ulVal,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: value.ullVal,
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: value.sllVal,
        pynvml.NVML_VALUE_TYPE_SIGNED_INT: value.siVal,
    }
    return float(members.get(field.valueType, 0))
