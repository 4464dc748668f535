"""Energy of the CPU packages, from the kernel's powercap files.

    /sys/class/powercap/intel-rapl:0/{name,energy_uj,max_energy_range_uj}     name: package-0

AMD Zen shows up in the same tree. Only zones named ``package…`` are added up: their sub-zones (``intel-rapl:0:0``,
core, uncore, dram) lie beside them in the directory and are mostly part of them, ``psys`` contains the packages, and
``intel-rapl-mmio:0`` is the same package through another register. Counters wrap, after about a quarter of an hour at
full power; a gap longer than that between two reads loses a multiple of the range.

Since Linux 5.10 the counters are readable by root alone (CVE-2020-8694).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.telemetry.reading import HostReading, RateMeter, Reading

ROOT = Path("/sys/class/powercap")
SOURCE = "rapl"
UJ_PER_J = 1e6


@dataclass(slots=True)
class _Zone:
    energy_file: Path
    range_uj: int
    last_uj: int


class Powercap:
    """The package zones of one host."""

    def __init__(self, root: Path = ROOT, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._zones: tuple[_Zone, ...] = ()
        self._energy_uj = 0
        self._meter = RateMeter()

    def read(self) -> HostReading:
        """Return all packages' mean power since the read before, and energy since the first; absent with the reason."""
        try:
            if not self._zones:
                self._zones = self._open()
            if not self._zones:
                return HostReading.absent(f"{self._root} has no package zone: no RAPL, or a virtual machine")
            now_uj = [_read_uj(zone.energy_file) for zone in self._zones]
        except (OSError, ValueError) as exc:
            return HostReading.absent(_explain(exc))
        # Only after all were read: a sum of some of the packages would look like a drop of power.
        for zone, uj in zip(self._zones, now_uj, strict=True):
            grown_uj = uj - zone.last_uj
            self._energy_uj += grown_uj if grown_uj >= 0 else grown_uj + zone.range_uj
            zone.last_uj = uj
        energy_j = self._energy_uj / UJ_PER_J
        power_w = self._meter.update(energy_j, self._clock())
        power = (
            Reading.absent("power is known from the second read on") if power_w is None else Reading(power_w, SOURCE)
        )
        nothing = HostReading.absent("powercap tells power and energy only")
        return replace(nothing, power_w=power, energy_j=Reading(energy_j, SOURCE))

    def _open(self) -> tuple[_Zone, ...]:
        packages = [
            path
            for path in sorted(self._root.glob("intel-rapl:*"))
            if path.name.count(":") == 1 and (path / "name").read_text().startswith("package")
        ]
        return tuple(
            _Zone(path / "energy_uj", _read_uj(path / "max_energy_range_uj"), _read_uj(path / "energy_uj"))
            for path in packages
        )


def _read_uj(path: Path) -> int:
    try:
        return int(path.read_text())
    except ValueError:
        raise ValueError(f"{path} holds no number") from None


def _explain(exc: OSError | ValueError) -> str:
    if isinstance(exc, PermissionError):
        return f"no permission to read {exc.filename}; powercap counters are root's unless made readable"
    return f"can't read {exc.filename}: {exc.strerror}" if isinstance(exc, OSError) else str(exc)
