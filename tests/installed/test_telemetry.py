"""Nothing is told to onnxruntime's maker, and nothing of it is left on the disk, unless the user allows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model_repository" / "fashion_w025" / "1" / "model.onnx"
RUN = f"import onnxruntime; onnxruntime.InferenceSession({str(MODEL)!r}, providers=['CPUExecutionProvider'])"
SENDS = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 29)


@pytest.mark.parametrize("package", ["orchestrator", "export", "export.repository.graph_check"])
@pytest.mark.parametrize("allowed", [None, "", "0"], ids=["by default", "empty", "allowed"])
def test_onnxruntime_keeps_nothing_of_a_model_unless_it_is_allowed(
    package: str, allowed: str | None, tmp_path: Path
) -> None:
    names = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")  # the last two would hide what it does
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    if allowed is not None:
        environment["ORT_DISABLE_TELEMETRY"] = allowed
    subprocess.run([sys.executable, "-c", f"import {package}; {RUN}"], env=environment, check=True, timeout=60)
    assert bool(list(tmp_path.iterdir())) == (allowed == "0" and SENDS)
