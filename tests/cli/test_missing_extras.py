"""What a command needs is told before it begins, in one line, and nothing is left of what could not begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.policies.tables.code_cache import PLACE_VARIABLE

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
from orchestrator.cli import main
main()
"""
SCENARIO = ["--scenario", "scenarios/two-unlike.yaml"]


@pytest.mark.parametrize(
    ("missing", "extra", "command"),
    [
        ("pytriton", "local", ["demo"]),
        ("onnxruntime", "local", ["demo"]),
        ("matplotlib", "plot", ["demo"]),
        ("pytriton", "local", ["up"]),
        ("pytriton", "local", ["local", "up"]),
        ("scipy", "sim", ["simulate", *SCENARIO]),
        ("matplotlib", "plot", ["simulate", *SCENARIO, "--plot", "x.png"]),
        ("distributed", "cluster", ["simulate", *SCENARIO, "--dask", "tcp://127.0.0.1:1"]),
        ("scipy", "sim", ["bounds", *SCENARIO]),
        ("scipy", "sim", ["tune", *SCENARIO, "--out", "x.json"]),
        ("scipy", "sim", ["evaluate", "--suite", "paper"]),
        ("torch", "learn", ["train-router", *SCENARIO, "--out", "x.npz"]),
        ("distributed", "cluster", ["evaluate", "--suite", "paper", "--dask", "tcp://127.0.0.1:1"]),
        ("torch", "export", ["train", "--data", "cifar10", "--epochs", "1", "--out", "run"]),
        ("onnx", "export", ["export", "model.pt"]),
        ("onnxruntime", "export", ["verify", str(ROOT / "model_repository")]),
        ("onnxruntime", "export", ["import", "--family", "a", "--variant", "1=model.onnx"]),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_told_before_anything_is_done(
    missing: str, extra: str, command: list[str], tmp_path: Path
) -> None:
    folder, compiled, state = tmp_path / "empty", tmp_path / "compiled", tmp_path / "run"
    folder.mkdir()
    state.mkdir(mode=0o700)
    environment = {**os.environ, PLACE_VARIABLE: str(compiled), "XDG_RUNTIME_DIR": str(state), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, missing, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert missing in line
    assert f"{sys.executable} -m pip install 'slim-scheduler[{extra}]'" in line
    for place in (folder, state, compiled):
        assert not [path for path in place.rglob("*") if path.is_file() or place is folder], place
