"""The wheel, installed where there is no checkout, runs what a newcomer tries in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from orchestrator.policies.tables.code_cache import PLACE_VARIABLE
from orchestrator.policies.tables.compiled import CACHE_DIR
from tests.packaging.builds import build, copy_tracked
from tests.ports import choose_free_ports

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROOT = Path(__file__).parents[2]
WAIT_S = 300.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``slimsched`` of an environment of its own, with the wheel and, of this environment, all but our package."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build(copy_tracked(ROOT, folder / "sources"), "wheel", folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, "--ignore-installed", str(wheel)], check=True)  # of a path that PYTHONPATH names
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "slimsched"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing leads to the checkout; what was compiled for tests is the same code."""
    assert CACHE_DIR is not None
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SLIMSCHED_"))}
    return {**kept, PLACE_VARIABLE: str(CACHE_DIR.parent), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def run(program: Path, folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_it_is_the_wheel_that_runs(program: Path, empty: Path, environment: dict[str, str]) -> None:
    python = program.with_name("python")
    script = "import orchestrator, orchestrator.shipped as s; print(orchestrator.__path__[0]); print(s.ROOT)"
    said = subprocess.run(
        [python, "-c", script], cwd=empty, env=environment, capture_output=True, text=True, check=True
    )
    package, shipped = map(Path, said.stdout.split())
    assert package.is_relative_to(program.parents[1])
    assert shipped == package / "shipped"


def test_the_hint_of_a_missing_extra_installs_it_where_no_index_has_the_package(
    program: Path, empty: Path, environment: dict[str, str]
) -> None:
    asked = ["-m", "pip", "install", "--quiet", "--no-index", "slim-scheduler[sim]"]
    subprocess.run([program.with_name("python"), *asked], cwd=empty, env=environment, check=True)


def test_scenarios_that_ship_are_simulated_with_the_profiles_that_they_name(
    program: Path, empty: Path, environment: dict[str, str]
) -> None:
    for name in ("two-unlike", "gpu-mix"):
        said = run(
            program, empty, environment, "simulate", "--scenario", f"scenarios/{name}.yaml", "--policy", "lert:slack",
            "--requests", "500",
        )  # fmt: skip
        assert "fluid bound" in said
    assert not list(empty.iterdir())


def test_the_template_of_a_policy_ships(program: Path, empty: Path, environment: dict[str, str]) -> None:
    template = ROOT / "examples" / "own-policy"
    said = run(program, empty, environment, "policy-template", "mine").splitlines()
    assert said == ["mine/pyproject.toml", "mine/saver.py", "mine/test_saver.py"]
    assert all((empty / name).read_bytes() == (template / Path(name).name).read_bytes() for name in said)


def test_a_suite_that_ships_is_evaluated(program: Path, empty: Path, environment: dict[str, str]) -> None:
    # Of more traces there are intervals, and of more requests a clairvoyant plans for long: tests/cli/test_evaluate.py.
    small = ["--traces", "1", "--validation-traces", "1", "--seeds", "1", "--requests", "8", "--jobs", "1"]
    policies = ("random", "lert:slack", "nexus", "thrift", "ppo-slim")
    chosen = [word for policy in policies for word in ("--policy", policy)]
    run(program, empty, environment, "evaluate", "--suite", "paper", "--out", "found", *small, *chosen)
    document = json.loads((empty / "found" / "evaluation-paper.json").read_text())
    assert len(document["scenarios"]) == len(list((ROOT / "scenarios" / "test" / "paper").glob("*.yaml")))


def test_the_demo_runs_and_leaves_its_report_only(program: Path, empty: Path, environment: dict[str, str]) -> None:
    said = run(program, empty, environment, "demo", "--seconds", "1", "--rounds", "1", "--policy", "default")
    assert "page:" in said
    assert sorted(path.relative_to(empty).as_posix() for path in empty.rglob("*")) == [
        "reports",
        "reports/demo.html",
        "reports/demo.png",
    ]


def test_up_serves_the_family_that_ships(program: Path, empty: Path, environment: dict[str, str]) -> None:
    grpc, http, metrics, triton = choose_free_ports(4)
    (empty / "fleet.yaml").write_text(
        f"servers: [{{name: one, grpc: '127.0.0.1:{triton}'}}]\n"
        f"gateway: {{grpc: '127.0.0.1:{grpc}', http: '127.0.0.1:{http}', metrics: '127.0.0.1:{metrics}'}}\n"
    )
    log = empty.parent / "up.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [program, "up", "--fleet", "fleet.yaml"], cwd=empty, env=environment, stdout=sink, stderr=sink
        )
    try:
        end_s = time.monotonic() + WAIT_S
        while "/v2/models/fashion/infer" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end_s, log.read_text()
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    assert [path.name for path in empty.iterdir()] == ["fleet.yaml"]
