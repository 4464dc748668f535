"""What was read of a host, each value with where it came from, and the reason where there is none.

Unknown is None, never 0: a device without a power sensor does not draw 0 watts. Rates (watts of joules, CPUs of CPU
seconds) are made of totals by a ``RateMeter``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

# CPU time is counted in ticks of 10 ms and powercap counters move about once a millisecond: over less than this the
# quotient is mostly noise.
MIN_WINDOW_S = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that was read, or the reason why there is none.

    Attributes:
        value: The value in the unit that its field's name ends with; None when it can't be read.
        source: The sensor, such as ``nvml-energy-counter``, ``nvml-power-instant``, ``nvml-power-average``, ``rapl``,
            ``psutil``; ``none`` when there is no value.
        reason: The reason why there is no value; empty otherwise.
    """

    value: float | None
    source: str
    reason: str = ""

    @classmethod
    def absent(cls, reason: str) -> Reading:
        """Return a reading without value."""
        return cls(None, "none", reason)


@dataclass(frozen=True, slots=True)
class HostReading:
    """A host at one moment, or what one source shows of it; what another one would is absent there.

    Attributes:
        memory_used_bytes: GPU: in use on the device, by whomever; CPU: private memory of Triton and its stubs.
        memory_total_bytes: Memory of the device or of the host.
        utilisation_ratio: How busy the device is, or Triton and its stubs keep the CPUs that they may use, 0..1.
        power_w: Power drawn now.
        energy_j: Energy drawn since some fixed moment; only differences mean something.
        server_id: The server process, another one after a restart; None when it can't be seen.
        live_instances: Stub processes alive, by model name; None when the process can't be seen.
        cpus: The number of CPUs that Triton may run on; None when the process can't be seen.
        instance_bytes: Private memory of the largest live stub, by model name; empty where there is none.
        server_threads: Threads of the server process; None when it can't be seen.
        overhead_bytes: What no stub that serves holds of the memory used; None where stubs are not what uses it.
    """

    memory_used_bytes: Reading
    memory_total_bytes: Reading
    utilisation_ratio: Reading
    power_w: Reading
    energy_j: Reading
    server_id: str | None = None
    live_instances: Mapping[str, int] | None = None
    cpus: int | None = None
    instance_bytes: Mapping[str, int] = field(default_factory=dict)
    overhead_bytes: int | None = None
    server_threads: int | None = None

    @classmethod
    def absent(cls, reason: str) -> HostReading:
        """Return a reading without values."""
        nothing = Reading.absent(reason)
        return cls(nothing, nothing, nothing, nothing, nothing)


class Telemetry(Protocol):
    """The readings of one host."""

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason, and nothing is raised."""


class RateMeter:
    """Differences of a growing total over the time between reads.

    A read too soon after the last one keeps the window open and repeats the rate of the window before.
    """

    def __init__(self) -> None:
        self._total: float | None = None
        self._at_s = 0.0
        self._rate: float | None = None

    def update(self, total: float, now_s: float) -> float | None:
        """Return the growth a second since the last read; None at the first, and when the total fell."""
        if self._total is not None and now_s - self._at_s < MIN_WINDOW_S:
            return self._rate
        if self._total is None or total < self._total:
            self._rate = None
        else:
            self._rate = (total - self._total) / (now_s - self._at_s)
        self._total, self._at_s = total, now_s
        return self._rate
