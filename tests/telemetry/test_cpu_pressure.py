"""Reading how long processes waited for a core."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.telemetry.cpu_pressure import read_cpu_waiting_s

SOME = "some avg10=11.95 avg60=12.47 avg300=12.29 total=12507252265\n"
FULL = "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


def test_seconds_in_which_some_process_waited_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text(SOME + FULL)
    assert read_cpu_waiting_s(tmp_path / "cpu") == 12507.252265


@pytest.mark.parametrize("text", ["", FULL + SOME, "some avg10=1.0\n", "some total=soon\n", None])
def test_what_a_kernel_does_not_say_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "cpu").write_text(text)
    assert read_cpu_waiting_s(tmp_path / "cpu") is None
