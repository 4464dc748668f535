"""``slimsched gateway`` on sockets that others hold too: systemd, or the gateway that it was to replace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import JsonValue

from orchestrator.config import load_fleet, render_fleet
from orchestrator.embedded.server import EmbeddedServer
from tests.gateway.activation import bind, start_with_sockets
from tests.gateway.running import (
    ROOT,
    Addresses,
    Process,
    fetch,
    launch_gateway,
    start_gateway,
    stop_gateway,
    wait_ended,
)
from tests.gateway.test_real_life import Load, NewConnections

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet"]
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:  # a short name: that of a Unix socket is bounded
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield


def write_successor(process: Process, **gateway: JsonValue) -> Path:
    """Write a fleet file with other settings of its gateway section."""
    fleet = load_fleet(process.path)
    path = process.path.with_name("successor.yaml")
    path.write_text(render_fleet(fleet.model_copy(update={"gateway": fleet.gateway.model_copy(update=gateway)})))
    return path


def with_a_taken_port(process: Process, taken: str) -> Path:
    return write_successor(process, metrics=taken)


def with_half_a_fleet_file(process: Process, taken: str) -> Path:
    path = write_successor(process)
    path.write_text(path.read_text()[:-1] + " [")
    return path


def with_a_worker_that_can_not_start(process: Process, taken: str) -> Path:
    path = write_successor(process)
    path.write_text(path.read_text().replace("gateway:\n", "gateway:\n  auth: {tokens_file: /nowhere/tokens.yaml}\n"))
    return path


@pytest.mark.parametrize(
    ("workers", "spoil", "reason"),
    [
        (1, with_a_taken_port, "can't listen on gateway.metrics"),
        (2, with_a_taken_port, "can't listen on gateway.metrics"),
        (1, with_half_a_fleet_file, "successor.yaml"),
        (2, with_a_worker_that_can_not_start, "/nowhere/tokens.yaml"),
    ],
)
def test_a_successor_that_can_not_start_costs_nothing_and_is_told_in_one_line(
    servers: list[EmbeddedServer],
    tmp_path: Path,
    workers: int,
    spoil: Callable[[Process, str], Path],
    reason: str,
) -> None:
    old = start_gateway(tmp_path, servers, workers=workers)
    load, connecting = Load("ipv4:" + old.addresses.grpc), NewConnections(old.addresses)
    with bind("127.0.0.1:0") as other, load, connecting:
        path = spoil(old, f"127.0.0.1:{other.getsockname()[1]}")
        load.wait_for(100)
        connecting.wait_for(50)
        failed = subprocess.run(
            [*COMMAND, path, "--replace"], capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=ROOT
        )
        load.wait_for(100)
        connecting.wait_for(50)
        assert old.popen.poll() is None
        new = launch_gateway(old.addresses, old.path, "--replace")  # the next one is not hindered by it
        assert wait_ended(old) == 0, old.lines
        load.wait_for(100)
    assert failed.returncode == 1
    (line,) = (line for line in failed.stderr.splitlines() if line.startswith("Error"))
    assert reason in line
    assert "Traceback" not in failed.stderr
    assert set(load.ends) == {"ok"}
    assert set(connecting.ends) == {"ok"}
    assert stop_gateway(new) == 0, new.lines


def test_the_old_one_says_that_it_goes_on(servers: list[EmbeddedServer], tmp_path: Path) -> None:
    process = start_gateway(tmp_path, servers)
    with bind("127.0.0.1:0") as other:
        path = with_a_taken_port(process, f"127.0.0.1:{other.getsockname()[1]}")
        failed = subprocess.run([*COMMAND, path, "--replace"], capture_output=True, timeout=WAIT_S, check=False)
    assert failed.returncode == 1
    assert stop_gateway(process) == 0
    assert sum("ended before it served; this one goes on" in line for line in process.lines) == 1, process.lines


@contextmanager
def kept_sockets(addresses: Addresses) -> Iterator[dict[str, list[socket.socket]]]:
    """Hold what systemd would."""
    with bind(addresses.grpc) as grpc, bind(addresses.http) as http, bind(addresses.metrics) as metrics:
        yield {"grpc": [grpc], "http": [http], "metrics": [metrics]}


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_wait_while_a_gateway_with_sockets_of_systemd_is_started_again(
    servers: list[EmbeddedServer], tmp_path: Path, workers: int
) -> None:
    once = start_gateway(tmp_path, servers, workers=workers)
    assert stop_gateway(once) == 0
    statuses: list[int] = []
    with kept_sockets(once.addresses) as sockets:
        for number in (signal.SIGKILL, signal.SIGTERM):
            # It is asked before it is there, and the answer is not that nobody listens.
            asking = threading.Thread(
                target=lambda: statuses.append(fetch(once.addresses, "/v2/models/fashion/ready")[0])
            )
            asking.start()
            with start_with_sockets(sockets, [*COMMAND, str(once.path)], cwd=ROOT, stderr=subprocess.PIPE) as process:
                asking.join(WAIT_S)
                assert not asking.is_alive()
                os.kill(process.pid, number)
                _, said = process.communicate(timeout=WAIT_S)
            assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0), said
            assert f"HTTP on {once.addresses.http}" in said
    assert statuses == [200, 200]


def test_systemd_starts_a_gateway_by_its_first_connection(servers: list[EmbeddedServer], tmp_path: Path) -> None:
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("no systemd-socket-activate on PATH; it comes with systemd")
    addresses = (once := start_gateway(tmp_path, servers)).addresses
    assert stop_gateway(once) == 0
    listening = [f"--listen={address}" for address in (addresses.grpc, addresses.http, addresses.metrics)]
    passed_on = [f"--setenv={name}={value}" for name, value in os.environ.items()]
    command = [activate, *listening, "--fdname=grpc:http:metrics", *passed_on, *COMMAND, str(once.path)]
    process = Process(addresses, once.path, subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True), [])
    assert process.popen.stderr is not None
    while "Listening on" not in (line := process.popen.stderr.readline()) or addresses.metrics not in line:
        assert line, "it has ended"
    with Load("ipv4:" + addresses.grpc) as load:
        load.wait_for(100)
    assert fetch(addresses, "/v2/health/ready")[0] == 200
    assert stop_gateway(process) == 0
    assert set(load.ends) == {"ok"}
