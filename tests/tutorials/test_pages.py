"""The commands of pages that are written for a checkout, run as they stand there in a folder that looks like one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.config.fleet import DecisionLogSettings
from tests.docs.test_commands import named_commands
from tests.ports import choose_free_ports
from tests.tutorials.document import execute, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("benchmarks", "examples", "model_repository", "profiles", "scenarios"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@contextmanager
def running_up(folder: Path, addresses: GatewaySettings, triton: str) -> Iterator[None]:
    """Run ``slimsched up`` with free ports until the block ends."""
    router = RouterSettings(decision_log=DecisionLogSettings(directory=folder / "decisions", sample_ratio=1))
    server = ServerSettings(name="local-0", grpc=triton)
    (folder / "fleet.yaml").write_text(render_fleet(FleetSettings(servers=(server,), gateway=addresses, router=router)))
    command = [str(Path(sys.executable).parent / "slimsched"), "up", "--fleet", "fleet.yaml", "--state-dir", "state"]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        while "Ctrl-C ends all of it" not in (folder / "up.log").read_text():
            assert process.poll() is None, (folder / "up.log").read_text()
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_what_the_start_says_works(checkout: Path) -> None:
    grpc, http, metrics, triton = (f"127.0.0.1:{port}" for port in choose_free_ports(4))
    replaced = {"localhost:8081": grpc, "localhost:8080": http, "localhost:8082": metrics}
    with running_up(checkout, GatewaySettings(grpc=grpc, http=http, metrics=metrics), triton):
        assert run(DOCS / "start.md", checkout, replaced=replaced) == 6


def test_what_the_runbook_says_can_be_done(checkout: Path) -> None:
    """All of its commands, in the folder in which ``slimsched up`` leaves the fleet that is in force."""
    elsewhere = {"slimsched gateway --fleet fleet.yaml --replace"}  # it does not end: tests/gateway/test_real_life.py
    text = (DOCS / "operate.md").read_text()
    in_words = set(named_commands(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))) - {"slimsched up"}
    assert elsewhere < in_words
    assert len(in_words) == 9
    grpc, http, metrics, triton = (f"127.0.0.1:{port}" for port in choose_free_ports(4))
    with running_up(checkout, GatewaySettings(grpc=grpc, http=http, metrics=metrics), triton):
        assert run(DOCS / "operate.md", checkout / "state", replaced={"localhost:8082": metrics}) == 3
        (checkout / "state" / "model_repository").symlink_to(ROOT / "model_repository")
        blank = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0] * 784}
        (checkout / "blank.json").write_text(json.dumps({"inputs": [blank]}))
        asked = execute(f"curl -s {http}/v2/models/fashion/infer -d @blank.json", checkout)
        decision = json.loads(asked.stdout)["parameters"]["slim_decision_id"]
        for line in sorted(in_words - elsewhere):
            given = {"slimsched status": "slimsched status --fleet fleet.yaml"}.get(line, line)
            done = execute(given.replace("a93a3a-17", decision), checkout / "state")
            assert done.returncode == 0, f"{line}\n{done.stdout}"


@pytest.mark.parametrize(("page", "commands"), [("own-policy.md", 10), ("plug-ins.md", 7)])
def test_what_the_pages_on_packages_of_ones_own_say_works(
    page: str, commands: int, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / "installed"
    monkeypatch.setenv("PIP_TARGET", str(installed))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(ROOT)]))
    try:
        assert run(DOCS / "tutorials" / page, checkout) == commands
    finally:
        execute("slimsched local down --state-dir state", checkout)


def test_what_the_page_on_evaluations_says_works(checkout: Path) -> None:
    assert run(DOCS / "tutorials" / "reading-an-evaluation.md", checkout) == 2


def test_what_the_page_on_a_trained_router_says_works(checkout: Path) -> None:
    patient = {"--deadline-ms 40 --seconds": "--deadline-ms 10000 --seconds"}  # a busy machine would refuse most
    try:
        assert run(DOCS / "tutorials" / "own-router.md", checkout, replaced=patient) == 12
    finally:
        execute("slimsched local down --state-dir state", checkout)
