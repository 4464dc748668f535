from __future__ import annotations

import os
from pathlib import Path

from orchestrator.telemetry import describe_gpu
from orchestrator.telemetry.description import describe_cpu


def test_a_cpu_is_told_by_its_model_and_how_many_there_are(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast 9000\nmodel name\t: Fast 9000\n")
    cpus = len(os.sched_getaffinity(0))
    assert describe_cpu(path) == f"Fast 9000, {cpus} CPUs"
    assert describe_cpu(tmp_path / "absent").endswith(f", {cpus} CPUs")


def test_a_gpu_that_is_not_there_is_unknown() -> None:
    assert describe_gpu(4711).startswith("unknown: ")
