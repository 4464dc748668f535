"""Readings that another package brings, in place of the host's own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.telemetry import HostReading, Reading, open_telemetry
from orchestrator.telemetry.host import CpuTelemetry, PluggedTelemetry
from orchestrator.telemetry.powercap import Powercap
from tests.plugged import install

METER = """
from orchestrator.telemetry import HostReading, Reading
from dataclasses import replace


class Meter:
    energy_j = 0.0

    def read(self):
        self.energy_j += 5.0
        if self.energy_j == 10.0:
            raise OSError("the meter's cable is loose")
        nothing = HostReading.absent("a meter at the wall tells energy only")
        return replace(nothing, energy_j=Reading(self.energy_j, "wall-meter"))


class Odd:
    def read(self):
        return {"energy_j": 5.0}


class Endless:
    def read(self):
        return replace(HostReading.absent("no"), power_w=Reading(float("inf"), "odd"))


class Leaves:
    def read(self):
        raise SystemExit(3)


class Hangs:
    def read(self):
        import threading
        threading.Event().wait()


def refuses():
    raise RuntimeError("no meter\\nat /dev/ttyUSB0")
"""


@pytest.fixture(autouse=True)
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"wall": "Meter", "refuses": "refuses", "gone": "gone"}
    points |= {name.lower(): name for name in ("Odd", "Endless", "Leaves", "Hangs")}
    install(tmp_path, "meter_one", METER, points, "slimsched.telemetry")
    monkeypatch.syspath_prepend(tmp_path)


async def test_what_a_source_reads_counts_and_the_rest_stays_the_hosts_own() -> None:
    telemetry = open_telemetry("cpu", grpc_port=None, source="wall")
    reading = await telemetry.read()
    assert reading.energy_j == Reading(5.0, "wall-meter")
    assert reading.memory_total_bytes.source == "psutil"
    await telemetry.close()


async def test_what_it_told_once_is_absent_when_it_fails_and_not_another_sensors(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in {"name": "package-0", "energy_uj": "7", "max_energy_range_uj": "1000"}.items():
        (zone / name).write_text(text)
    telemetry = PluggedTelemetry(CpuTelemetry(None, Powercap(tmp_path)), "wall")
    first, second, third = [(await telemetry.read()).energy_j for _ in range(3)]
    assert (first.value, third.value) == (5.0, 15.0)
    assert second == Reading.absent("telemetry 'wall' of meter_one can't be read: OSError: the meter's cable is loose")


@pytest.mark.parametrize("name", ["odd", "endless", "leaves", "hangs"])
async def test_one_that_reads_nonsense_raises_or_hangs_takes_nothing_along(name: str) -> None:
    telemetry = PluggedTelemetry(CpuTelemetry(None, Powercap(Path("/nowhere"))), name, timeout_s=0.2)
    for _ in range(2):
        reading = await telemetry.read()
        assert isinstance(reading, HostReading)
        assert reading.memory_total_bytes.source == "psutil"
        assert "/nowhere" in reading.energy_j.reason
    assert sum(f"telemetry '{name}'" in thread.name for thread in threading.enumerate()) == (name == "hangs")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "wal",
            r"no package here brings 'wal'; install it beside .*; of other packages endless, gone, hangs, leaves, odd",
        ),
        ("refuses", r"'refuses' of meter_one can't be made .RuntimeError: no meter at /dev/ttyUSB0.; mend the package"),
        ("gone", r"'gone' of meter_one can't be imported .AttributeError"),
    ],
)
def test_one_that_can_not_be_had_is_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_telemetry("cpu", grpc_port=None, source=name)
    assert "\n" not in str(caught.value)
