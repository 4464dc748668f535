"""Names by the system's own resolver: which addresses, of which family, and several of one name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config import ServerSettings
from orchestrator.router.servers.membership import ResolvedNames, resolve_host

ROOT = Path(__file__).parents[3]
HOSTS = """127.0.0.1 localhost
127.0.0.3 fleet.test
127.0.0.2 fleet.test
::1 fleet.test
::1 six.test
127.0.0.4 gpu-0.triton.inference.svc.cluster.local
127.0.0.4 triton
127.0.0.5 gpu-1.triton.inference.svc.cluster.local
127.0.0.5 triton
"""
SCRIPT = """
import asyncio
from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.router import Router
from orchestrator.router.servers.membership import resolve_host
from tests.fakes.servers import FakeServer

for host in ("fleet.test", "six.test", "localhost", "nobody.invalid"):
    print(host, *asyncio.run(resolve_host(host)))

async def route(host):
    fleet = FleetSettings(servers=(ServerSettings(name="t", grpc=host + ":8001"),))
    asked = []
    def connect(server, settings):
        asked.append(server.grpc)
        return FakeServer(per_item_s=0.0)
    async with Router.from_fleet(fleet, connect=connect) as router:
        print(*asked, *sorted(router.served_by()))

asyncio.run(route("fleet.test"))
asyncio.run(route("triton"))
"""
IN_A_WORLD_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


async def test_localhost_is_the_addresses_of_version_4_that_the_system_knows() -> None:
    known = socket.getaddrinfo("localhost", None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    assert await resolve_host("localhost") == tuple(sorted({str(entry[4][0]) for entry in known}))
    assert await resolve_host("127.0.0.1") == ("127.0.0.1",)
    assert await resolve_host("::1") == ("::1",)


async def test_one_that_takes_connections_and_says_nothing_keeps_no_look_up_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = [ServerSettings(name="t", grpc=f"localhost:{silent.getsockname()[1]}")]
        names = ResolvedNames()
        async with asyncio.timeout(5.0):  # to wait for what was asked would take ten seconds
            await names.look_up(servers, lambda name: False)
        assert names.pause_s(servers, 10.0) == 1.0, "it may still say what it is called"


def test_a_name_with_several_addresses_is_as_many_servers_by_the_systems_resolver(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    command = f'mount --bind "{hosts}" /etc/hosts && exec "{sys.executable}" -c "$SCRIPT"'
    run = subprocess.run(
        [*IN_A_WORLD_OF_ITS_OWN, command],
        env={**os.environ, "SCRIPT": SCRIPT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip(f"this machine lets nobody have name files of his own: {run.stderr.strip()}")
    assert run.stdout.splitlines() == [
        "fleet.test 127.0.0.2 127.0.0.3",
        "six.test ::1",
        "localhost 127.0.0.1",
        "nobody.invalid",
        "127.0.0.2:8001 127.0.0.3:8001 t-127.0.0.2 t-127.0.0.3",
        "127.0.0.4:8001 127.0.0.5:8001 gpu-0 gpu-1",
    ], run.stderr
