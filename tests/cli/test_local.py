"""`slimsched local`, called as the command line calls it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.config import load_fleet
from orchestrator.embedded.local_state import read_supervisor
from orchestrator.processes.process_table import list_session, read_identity
from tests.triton import onnx_models
from tests.triton.calls import infer, process_status

GONE_S = 15.0


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["local", *map(str, arguments)], prog_name="slimsched")


def succeed(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    return line


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    onnx_models.write_model(path, "plus", onnx_models.plus_one())
    return path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "state"
    yield directory
    succeed("down", "--state-dir", directory)


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_every_help_ends_with_an_example(command: str) -> None:
    assert f"Example:\n    slimsched local {command}" in call(command, "--help").output


def test_the_group_is_a_click_group_with_an_example() -> None:
    command = main.get_command(click.Context(main), "local")
    assert isinstance(command, click.Group)
    assert "Example:\n    slimsched local up" in call("--help").output


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--slowdown", "1"], "--slowdown 1: 1 value(s) for 2 server(s); give one per server"),
        (["--slowdown", "1,x"], "--slowdown 1,x: 'x' is not a number"),
        (["--servers", "1", "--slowdown", "0.5"], "0.5: must be a number >= 1"),
        (["--cpus", "0"], "--cpus 0: 1 value(s) for 2 server(s)"),
        (["--servers", "1", "--cpus", "0-"], "CPU list '0-'"),
        (["--servers", "1", "--cpus", "9999"], "CPUs not available here: 9999"),
    ],
)
def test_bad_flags_are_one_line(repository: Path, tmp_path: Path, flags: list[str], problem: str) -> None:
    line = fail("up", "--repository", repository, "--state-dir", tmp_path / "s", *flags)
    assert problem in line
    assert not (tmp_path / "s").exists()


def test_a_missing_repository_is_one_line(tmp_path: Path) -> None:
    assert "is not a directory; export models" in fail("up", "--repository", tmp_path / "x", "--state-dir", tmp_path)


def test_without_a_fleet_status_and_down_say_so(tmp_path: Path) -> None:
    assert "no local fleet" in succeed("status", "--state-dir", tmp_path)
    assert "no local fleet" in succeed("down", "--state-dir", tmp_path)
    found = json.loads(succeed("status", "--json", "--state-dir", tmp_path))
    assert found == {"is_running": False, "servers": []}


def test_a_file_of_the_users_is_never_overwritten(tmp_path: Path, repository: Path) -> None:
    mine = tmp_path / "fleet.yaml"
    mine.write_text("servers: []")
    line = fail("up", "--repository", repository, "--fleet", mine, "--state-dir", tmp_path / "state")
    assert "was not written by 'slimsched local up'" in line
    assert mine.read_text() == "servers: []"
    line = fail(
        "up", "--repository", repository, "--fleet", tmp_path / "none" / "f.yaml", "--state-dir", tmp_path / "state"
    )
    assert "its folder is missing or read-only" in line


@pytest.mark.integration
def test_a_fleet_is_brought_up_its_status_tells_who_has_died_and_down_leaves_nothing(
    repository: Path, state: Path
) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    copy = state.parent / "copy.yaml"
    shown = succeed(
        "up", "--repository", repository, "--slowdown", "1,3", "--cpus", f"{cpu};{cpu}", "--state-dir", state,
        "--fleet", copy,
    )  # fmt: skip
    assert copy.read_text() == (state / "fleet.yaml").read_text()
    assert "local-0" in shown
    assert f"fleet file: {state / 'fleet.yaml'}" in shown.replace("\n", " ")
    fleet = load_fleet(state / "fleet.yaml")
    assert [(server.name, server.emulated_slowdown) for server in fleet.servers] == [
        ("local-0", None),
        ("local-1", 3.0),
    ]
    assert {server.repository for server in fleet.servers} == {repository}
    addresses = {address for s in fleet.servers for address in (s.grpc, s.metrics, s.controller)}
    assert len(addresses) == 6
    for server in fleet.servers:
        with grpcclient.InferenceServerClient(server.grpc) as client:
            assert infer(client, "plus", x=np.zeros((1, 4), np.float32)).as_numpy("y")[0, 0] == 1

    found = json.loads(succeed("status", "--json", "--state-dir", state))
    pids = [server["pid"] for server in found["servers"]]
    assert [server["grpc"] for server in found["servers"]] == [server.grpc for server in fleet.servers]
    assert all(server["is_running"] for server in found["servers"])
    assert {process_status(pid)["Cpus_allowed_list"] for pid in pids} == {cpu}
    assert "already running" in fail("up", "--repository", repository, "--state-dir", state)

    os.kill(pids[0], signal.SIGKILL)
    deadline_s = time.monotonic() + GONE_S
    while "gone, see" not in succeed("status", "--state-dir", state):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

    assert "stopped 2 server(s)" in succeed("down", "--state-dir", state)
    assert all(list_session(pid) == [] for pid in pids)
    assert not (state / "fleet.yaml").exists()
    assert "no local fleet" in succeed("down", "--state-dir", state)


@pytest.mark.integration
def test_a_failure_takes_all_down_and_is_explained(tmp_path: Path, state: Path) -> None:
    model, repository = onnx_models.plus_one(), tmp_path / "bad"
    onnx_models.write_model(repository, "bad", model, onnx_models.render_config(model).replace('"y"', '"z"'))
    line = fail("up", "--repository", repository, "--state-dir", state)
    assert "local-" in line
    assert "unexpected output 'z'" in line
    assert json.loads(succeed("status", "--json", "--state-dir", state)) == {"is_running": False, "servers": []}


@pytest.mark.integration
def test_a_killed_supervisor_leaves_a_stale_state_and_no_process(repository: Path, state: Path) -> None:
    succeed("up", "--servers", "1", "--repository", repository, "--state-dir", state)
    (server,) = json.loads(succeed("status", "--json", "--state-dir", state))["servers"]
    supervisor = read_supervisor(state)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    deadline_s = time.monotonic() + GONE_S
    while read_identity(server["pid"]) is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert "stale" in succeed("status", "--state-dir", state)
    assert "was gone already" in succeed("down", "--state-dir", state)


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_up_leaves_nothing(repository: Path, state: Path, number: signal.Signals) -> None:
    script = "from orchestrator.cli import main; main()"
    arguments = ["local", "up", "--repository", str(repository), "--state-dir", str(state)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as process:
        deadline_s = time.monotonic() + GONE_S
        while not (state / "supervisor.json").exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        supervisor = read_supervisor(state)
        process.send_signal(number)
    assert supervisor is not None
    while supervisor.is_alive():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert not (state / "fleet.yaml").exists()
