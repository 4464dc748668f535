"""The wheel on each other Python that it is for, with what pip installs for it there, far from the checkout.

Tests themselves run on one Python; this finds others where pyenv or the system has them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as tritonclient

from orchestrator.embedded.server import EmbeddedOptions
from tests.packaging.builds import build, copy_tracked
from tests.ports import choose_free_ports
from tests.tritons import Tritons

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROOT = Path(__file__).parents[2]
WITH_TRITON = [version for version in ("3.11", "3.12") if version != f"3.{sys.version_info.minor}"]
WITHOUT_TRITON = ["3.13"]
"""Those for which there is no wheel of Triton's."""
WAIT_S = 900.0
"""After which something hangs: to compile takes two minutes of a processor, of which a busy machine gives a quarter."""


def find_python(version: str) -> Path | None:
    """Return an interpreter of a version, 3.x; None where there is none that makes environments."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    script = f"import sys, venv; sys.exit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
    for name in filter(None, names):  # a shim of pyenv may stand for nothing
        if subprocess.run([name, "-c", script], capture_output=True, check=False).returncode == 0:
            return Path(name)
    return None


class Installed:
    """A wheel in an environment of its own, run in an empty folder."""

    def __init__(self, version: str, python: Path, folder: Path, pip_said: str) -> None:
        self.version = version
        self.program = python.with_name("slimsched")
        self.folder = folder
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SLIMSCHED_"))}
        (folder / "run").mkdir(mode=0o700)
        self.empty = folder / "empty"
        self.empty.mkdir()
        self.pip_said = pip_said
        self.environment = {**inherited, "XDG_RUNTIME_DIR": str(folder / "run")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; what it prints is one pipe."""
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=self.empty,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """Return what a command prints, which has to end with a status."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == status, said[-3000:]
        return said


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(copy_tracked(ROOT, folder / "sources"), "wheel", folder)


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    version: str = request.param
    found = find_python(version)
    if found is None:
        pytest.skip(f"no Python {version} with venv here, neither python{version} nor pyenv's")
    folder = tmp_path_factory.mktemp(f"python{version}")
    subprocess.run([found, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    # This environment's pip, because a system's Python may be without.
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    done = subprocess.run([*install, f"{wheel}[local]"], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return Installed(version, python, folder, done.stderr)


@pytest.mark.parametrize("installed", WITH_TRITON, indirect=True)
def test_the_demo_runs_and_leaves_its_report_only(installed: Installed) -> None:
    assert "page:" in installed.run("demo", "--seconds", "1", "--rounds", "1", "--policy", "default")
    left = sorted(path.name for path in installed.empty.rglob("*"))
    assert left == ["demo.html", "demo.png", "reports"]


@pytest.mark.parametrize("installed", WITH_TRITON, indirect=True)
def test_up_serves_the_family_that_ships(installed: Installed) -> None:
    grpc, http, metrics, triton = (f"127.0.0.1:{port}" for port in choose_free_ports(4))
    fleet = write_fleet(installed, triton, grpc, http, metrics)
    assert_answers_until_ended(installed.start("up", "--fleet", str(fleet)), grpc)


@pytest.mark.parametrize("installed", WITHOUT_TRITON, indirect=True)  # the demo has shown that the others compile
def test_a_suite_that_ships_is_evaluated(installed: Installed, tmp_path: Path) -> None:
    small = ["--traces", "2", "--validation-traces", "1", "--seeds", "1", "--requests", "60", "--jobs", "1"]
    policies = ["--policy", "random", "--policy", "lert:slack"]
    installed.run("evaluate", "--suite", "paper", "--out", str(tmp_path), *small, *policies)
    document = json.loads((tmp_path / "evaluation-paper.json").read_text())
    assert len(document["scenarios"]) == len(list((ROOT / "scenarios" / "test" / "paper").glob("*.yaml")))


@pytest.mark.parametrize("installed", WITHOUT_TRITON, indirect=True)
@pytest.mark.parametrize("command", [["demo"], ["up", "--fleet", "fleet.yaml"]], ids=["demo", "up"])
def test_what_needs_a_triton_says_at_once_which_python_has_one(installed: Installed, command: list[str]) -> None:
    (installed.empty / "fleet.yaml").write_text("servers: [{name: one, grpc: '127.0.0.1:9'}]\n")
    said = installed.run(*command, status=1)
    assert said.strip().endswith("which is not installed: it is not for Python 3.13; use 3.11 or 3.12")
    assert [path.name for path in installed.empty.iterdir()] == ["fleet.yaml"]


@pytest.mark.parametrize("installed", [*WITH_TRITON, *WITHOUT_TRITON], indirect=True)
def test_pip_says_where_there_is_no_embedded_server(installed: Installed) -> None:
    says = "does not provide the extra 'embedded-server-for-python-3-13'" in installed.pip_said
    assert says == (installed.version in WITHOUT_TRITON)


@pytest.mark.parametrize("installed", WITHOUT_TRITON, indirect=True)
def test_scenarios_that_ship_are_simulated(installed: Installed) -> None:
    arguments = ["--policy", "lert:slack", "--requests", "300"]
    assert "fluid bound" in installed.run("simulate", "--scenario", "scenarios/two-unlike.yaml", *arguments)


@pytest.mark.parametrize("installed", WITHOUT_TRITON, indirect=True)
def test_a_gateway_serves_a_triton_of_another_python(installed: Installed, tritons: Tritons) -> None:
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    options = EmbeddedOptions(models=("fashion_w025",))
    with tritons.running(ROOT / "model_repository", options) as server:
        fleet = write_fleet(installed, str(server.grpc_address), grpc, http, metrics)
        assert_answers_until_ended(installed.start("gateway", "--fleet", str(fleet)), grpc)


def write_fleet(installed: Installed, triton: str, grpc: str, http: str, metrics: str) -> Path:
    """Write settings of a fleet of one server, all at addresses of this test, and return their path."""
    path = installed.folder / "fleet.yaml"
    path.write_text(
        f"servers: [{{name: one, grpc: '{triton}'}}]\n"
        f"gateway: {{grpc: '{grpc}', http: '{http}', metrics: '{metrics}'}}\n"
    )
    return path


def assert_answers_until_ended(serving: subprocess.Popen[str], grpc: str) -> None:
    """Ask what serves, end it, and see it end well."""
    try:
        assert answers_within(grpc, WAIT_S) == (1, 10)
    finally:
        serving.send_signal(signal.SIGTERM)
        said, _ = serving.communicate(timeout=WAIT_S)
    assert serving.returncode == 0, said[-3000:]


def answers_within(address: str, seconds: float) -> tuple[int, ...]:
    """Return the shape of an answer of the family, once there is one."""
    pixels = tritonclient.InferInput("pixels", [1, 1, 28, 28], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
    until_s = time.monotonic() + seconds
    with tritonclient.InferenceServerClient(address) as client:
        while True:
            try:
                return tuple(client.infer("fashion", [pixels]).as_numpy("logits").shape)
            except tritonclient.InferenceServerException:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.5)
