"""A GPU behind the stand-in NVML, and the process that reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
HEALTHY = {
    "nvmlDeviceGetCount": "0 2",
    "nvmlDeviceGetMigMode": "3",
    "nvmlDeviceGetMemoryInfo": f"0 {80 * GIB} {69 * GIB} {11 * GIB}",
    "nvmlDeviceGetMemoryInfo_v2": f"0 {80 * GIB} {1 * GIB} {69 * GIB} {10 * GIB}",
    "nvmlDeviceGetUtilizationRates": "0 37 12",
    "nvmlDeviceGetFieldValues": "0 186 0 251500 185 0 240000",
    "nvmlDeviceGetPowerUsage": "0 245000",
    "nvmlDeviceGetTotalEnergyConsumption": "0 5000000",
}
PATIENCE_S = 60.0
"""For a call that answers: more than any machine takes, however busy."""


class FakeGpu:
    """What a GPU answers, to be changed at will, and readings of it."""

    def __init__(self, library_directory: Path, directory: Path) -> None:
        self._script = directory / "nvml.txt"
        self._answers: dict[str, str] = {}
        self.answer(**HEALTHY)
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(library_directory),
            "FAKE_NVML_SCRIPT": str(self._script),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.telemetry.nvml_driver"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.open(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(
            timeout=PATIENCE_S
        )  # which closes its input: it ends by itself, even when a call hangs
        assert self._process.returncode == 0

    def open(self, gpu: int | str, *, timeout_s: float = PATIENCE_S) -> None:
        """Start afresh: healthy answers, and a telemetry that knows nothing yet and waits for a call for so long."""
        self._answers = {}
        self.answer(**HEALTHY)
        self._send(f"open {gpu} {timeout_s}")

    def answer(self, **answers: str) -> None:
        """Change what functions answer: return code and values."""
        self._answers |= answers
        fresh = self._script.with_suffix(".new")
        fresh.write_text("".join(f"{name} {text}\n" for name, text in self._answers.items()))
        fresh.replace(self._script)

    def read(self, *, after_s: float = 1.0) -> dict[str, Any]:
        """Return the fields of a ``HostReading``."""
        return self._send(f"read {after_s}")

    def close(self) -> None:
        """Close the telemetry; it may be read on."""
        self._send("close")

    def _send(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def value(reading: dict[str, Any], field: str) -> tuple[float, str]:
    """Return value and source of a field; there must be one."""
    assert reading[field]["value"] is not None, reading[field]["reason"]
    return reading[field]["value"], reading[field]["source"]


def reason(reading: dict[str, Any], field: str) -> str:
    """Return why a field has no value; there must be none."""
    assert (reading[field]["value"], reading[field]["source"]) == (None, "none")
    assert reading[field]["reason"]
    return reading[field]["reason"]
