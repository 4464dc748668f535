"""Sockets that a gateway is given, by systemd or by the gateway that it replaces."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import GatewaySettings, PeerSettings, RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.gateway import Gateway
from orchestrator.gateway.workers.takeover import (
    Offer,
    Succession,
    complete,
    inherited_sockets,
    peer_addresses,
    take_over,
)
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from tests.fakes.servers import FakeServer
from tests.gateway.activation import bind, start_with_sockets

ROOT = Path(__file__).parents[3]
ADDRESSES = {"grpc": "127.0.0.1:1", "http": "127.0.0.1:2"}
ACTIVATED = """
import json, os
from orchestrator.gateway.workers.takeover import inherited_sockets
found = inherited_sockets((), os.environ)
for kind, sockets in found.items():
    for one in sockets:
        assert not one.getblocking() and not one.get_inheritable()
        one.setblocking(True)
        accepted, _ = one.accept()
        accepted.sendall(kind.encode())
        accepted.close()
print(json.dumps({kind: len(sockets) for kind, sockets in found.items()}))
"""
FAILS = """
import os, signal, sys
from pathlib import Path
from orchestrator.gateway.workers.takeover import take_over
assert take_over(Path(sys.argv[1]), {}) is not None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_finds_the_sockets_of_systemd_by_their_names() -> None:
    with bind("127.0.0.1:0") as grpc, bind("127.0.0.1:0") as first, bind("127.0.0.1:0") as second:
        clients = [socket.create_connection(one.getsockname(), 20) for one in (grpc, first, second)]
        command = [sys.executable, "-c", ACTIVATED]
        with start_with_sockets(
            {"grpc": [grpc], "http": [first, second]}, command, cwd=ROOT, stdout=subprocess.PIPE
        ) as child:
            answers = [client.recv(100) for client in clients]
            printed, _ = child.communicate(timeout=20)
        for client in clients:
            client.close()
    assert answers == [b"grpc", b"http", b"http"], "connections that had waited before it began"
    assert json.loads(printed) == {"grpc": 1, "http": 2}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "gRPC"}, "LISTEN_FDS = 1 with LISTEN_FDNAMES = gRPC; set FileDescr"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "grpc"}, "LISTEN_FDS = 2 with LISTEN_FDNAMES = grpc; set"),
        ({"LISTEN_FDS": "1"}, "LISTEN_FDS = 1 with LISTEN_FDNAMES = ; set"),
        ({"LISTEN_FDS": "one", "LISTEN_FDNAMES": "grpc"}, "LISTEN_FDS = one"),
    ],
)
def test_sockets_without_our_names_are_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inherited_sockets((), {"LISTEN_PID": str(os.getpid()), **environment})


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "3"}, {"LISTEN_FDS": "0"}])
def test_what_is_meant_for_another_process_or_is_nothing_is_not_taken(environment: dict[str, str]) -> None:
    assert inherited_sockets((), {"LISTEN_PID": str(os.getpid()), **environment}) == {}


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    read, write = os.pipe()
    with pytest.raises(ConfigError, match=f"descriptor {read}, given for grpc, is no socket"):
        inherited_sockets([("grpc", read)], {})
    os.close(read)
    os.close(write)


def test_a_socket_for_what_is_not_offered_is_refused() -> None:
    with (
        bind("127.0.0.1:0") as one,
        pytest.raises(ConfigError, match=r"a socket is given for gateway\.metrics, which is null"),
    ):
        Succession(GatewaySettings(metrics=None), {"metrics": [one]}, replaces=False)


async def test_nothing_listens_before_all_addresses_can_be_had() -> None:
    """Else a client might be accepted by a gateway that does not start."""
    routing = RouterSettings.model_validate({"warm_up": False})
    with socket.socket() as grpc, bind("127.0.0.1:0") as taken:
        grpc.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = GatewaySettings(grpc=f"127.0.0.1:{grpc.getsockname()[1]}", http=None, metrics=metrics)
        async with Router(routing, {ServerName("a"): FakeServer(per_item_s=0.001, fixed_s=0.0)}) as router:
            gateway = Gateway(settings, router, ModelDiscovery({}, timeout_s=30.0), sockets={"grpc": [grpc.dup()]})
            with pytest.raises(ConfigError, match=r"can't listen on gateway\.metrics"):
                await gateway.__aenter__()
        assert not grpc.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_socket_on_another_port_than_the_fleet_file_says_is_refused() -> None:
    with bind("127.0.0.1:0") as one:
        port = one.getsockname()[1]
        Succession(GatewaySettings(http=f"127.0.0.1:{port}"), {"http": [one]}, replaces=False)
        with pytest.raises(ConfigError, match=rf"{port}\) is given for gateway\.http = 127\.0\.0\.1:8080; make both"):
            Succession(GatewaySettings(), {"http": [one]}, replaces=False)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a short name: that of a Unix socket is bounded
        yield Path(folder) / "offer.sock"


async def test_a_successor_that_fails_leaves_the_offer_to_the_next(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = asyncio.Event()
    with bind("127.0.0.1:0") as grpc, bind("127.0.0.1:0") as http:
        async with Offer(path, ADDRESSES, {"grpc": [grpc], "http": [http]}, replaced.set):
            failing = await asyncio.create_subprocess_exec(sys.executable, "-c", FAILS, path, cwd=ROOT)
            assert await failing.wait() == -signal.SIGKILL
            async with asyncio.timeout(20):
                while "ended before it served; this one goes on" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert not replaced.is_set()
            taken = await asyncio.to_thread(take_over, path, {**ADDRESSES, "http": "127.0.0.1:9"})
            assert taken is not None
            end, sockets = taken
            assert [one.getsockname() for one in sockets["grpc"]] == [grpc.getsockname()]
            assert "http" not in sockets, "its address is another one"
            assert not replaced.is_set()
            complete(end)
            async with asyncio.timeout(20):
                await replaced.wait()
            for one in sockets["grpc"]:
                one.close()
        assert path.exists(), "the successor may offer there already"


async def test_an_offer_that_nobody_took_leaves_nothing_behind(path: Path) -> None:
    async with Offer(path, ADDRESSES, {}, lambda: None):
        assert path.exists()
    assert not list(path.parent.iterdir())


def test_each_worker_has_sockets_of_its_own_for_peers() -> None:
    peers = PeerSettings(listen="0.0.0.0:8083", addresses=("a:8083",))
    assert peer_addresses(GatewaySettings()) == {}
    assert peer_addresses(GatewaySettings(peers=peers)) == {"peers": "0.0.0.0:8083"}
    several = GatewaySettings(peers=peers, workers=3)
    assert peer_addresses(several) == {"peers": "0.0.0.0:8083", "peers-1": "0.0.0.0:8084", "peers-2": "0.0.0.0:8085"}


def test_where_no_gateway_is_there_is_nothing_to_take(path: Path) -> None:
    assert take_over(path, ADDRESSES) is None


def test_a_gateway_that_ends_instead_of_giving_is_told_in_one_line(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
        end.listen()

        async def ask() -> None:
            asking = asyncio.create_task(asyncio.to_thread(take_over, path, ADDRESSES))
            accepted, _ = await asyncio.to_thread(end.accept)
            accepted.close()
            with pytest.raises(ConfigError, match="ends, or another one has just replaced it; start this one again"):
                await asking

        asyncio.run(ask())


def test_where_nothing_can_be_written_it_starts_and_says_that_it_can_not_be_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find_none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    assert Succession(GatewaySettings(), {}, replaces=False).take() == {}
    assert "can't be replaced by another gateway: there is no temporary directory that can be written" in caplog.text
    with pytest.raises(ConfigError, match="set TMPDIR to one"):
        Succession(GatewaySettings(), {}, replaces=True).take()


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        ("file/below", "can't use state directory .*/slimsched: Not a directory; set XDG_RUNTIME_DIR to a folder of"),
        ("x" * 99, "has [0-9]+ bytes, but a socket's path may have 104; set XDG_RUNTIME_DIR to .* with a shorter path"),
    ],
)
def test_a_folder_that_is_no_place_for_sockets_is_told_with_what_a_gateway_is_given(
    runtime: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / runtime))
    assert Succession(GatewaySettings(), {}, replaces=False).take() == {}
    assert re.search(f"can't be replaced by another gateway: .*{problem}", caplog.text)
    with pytest.raises(ConfigError, match=problem):
        Succession(GatewaySettings(), {}, replaces=True).take()
