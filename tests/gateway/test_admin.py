"""Health and metrics at an address of their own, from before there is a gateway to tell of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cli.serving import gateway as command
from orchestrator.cli.signals import SighupHandler
from orchestrator.config import FleetSettings, GatewaySettings, render_fleet
from orchestrator.errors import ServerUnavailableError
from orchestrator.gateway import Succession, open_gateway
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.policies import preparation
from orchestrator.processes.readiness import Announcement
from orchestrator.router.dispatch import compilation
from tests.gateway.fakes import World, open_world
from tests.gateway.test_addresses import open_triton
from tests.ports import choose_free_ports

PATIENCE_S = 60.0


async def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def wait_for(address: str, path: str, expected: tuple[int, str]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if await get(address, path) == expected:
                    return
            except aiohttp.ClientConnectorError:  # it does not listen yet
                pass
            await asyncio.sleep(0.01)


def address_of(world: World) -> str:
    assert world.gateway.metrics is not None
    return world.gateway.metrics.address


@asynccontextmanager
async def listening() -> AsyncIterator[str]:
    admin = AdminEndpoint("127.0.0.1:0")
    await admin.start()
    try:
        yield admin.address
    finally:
        await admin.stop()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/livez", (200, "live\n")),
        ("/healthz", (200, "live\n")),
        ("/readyz", (503, "it starts, or ends\n")),
        ("/status", (200, "null")),
        ("/nothing", (404, "there is GET /, /status, /livez, /readyz, /healthz, /metrics here\n")),
    ],
)
async def test_before_there_is_a_gateway_it_lives_and_is_not_ready(path: str, expected: tuple[int, str]) -> None:
    async with listening() as address:
        assert await get(address, path) == expected


async def test_before_there_is_a_gateway_nothing_was_counted() -> None:
    async with listening() as address:
        status, page = await get(address, "/metrics")
    assert status == 200
    assert {family.name for family in text_string_to_metric_families(page)} == set(MEASURES)


async def test_nothing_can_be_changed_there() -> None:
    async with listening() as address:
        assert (await get(address, "/readyz", "POST"))[0] == 405


async def test_what_is_no_http_is_not_quoted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret" + b"b" * 9000 + b"\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
    assert "secret" not in caplog.text
    assert not caplog.records


async def test_a_gateway_is_ready_there_while_each_family_is_served_and_it_does_not_end() -> None:
    async with open_world() as world:
        address = address_of(world)
        await wait_for(address, "/readyz", (200, "ready\n"))
        for server in world.servers.values():
            server.is_up = False
        await wait_for(address, "/readyz", (503, "no server answers for fashion\n"))
        assert await get(address, "/livez") == (200, "live\n")
        for server in world.servers.values():
            server.is_up = True
        await wait_for(address, "/readyz", (200, "ready\n"))
        world.gateway.say_unready()
        assert await get(address, "/readyz") == (503, "it ends\n")
        assert await get(address, "/livez") == (200, "live\n")


def fleet_on(triton_port: int, grpc_port: int, http_port: int, metrics_port: int) -> FleetSettings:
    return FleetSettings.model_validate(
        {
            "servers": [{"name": "first", "grpc": f"127.0.0.1:{triton_port}"}],
            "gateway": {
                "grpc": f"127.0.0.1:{grpc_port}",
                "http": f"127.0.0.1:{http_port}",
                "metrics": f"127.0.0.1:{metrics_port}",
            },
            "router": {"warm_up": False, "discovery_period_s": 0.1},
        }
    )


async def test_a_gateway_starts_without_any_triton_and_is_ready_once_one_comes(tmp_path: Path) -> None:
    triton_port, *ports = choose_free_ports(4)
    fleet, path = fleet_on(triton_port, *ports), tmp_path / "fleet.yaml"
    path.write_text(render_fleet(fleet))
    async with open_gateway(fleet, path) as gateway:
        assert gateway.metrics is not None
        assert gateway.http is not None
        address, http = gateway.metrics.address, gateway.http.address
        assert await get(address, "/livez") == (200, "live\n")
        assert await get(address, "/readyz") == (503, "no server has a model ready\n")
        assert await get(http, "/v2/health/live") == (200, "")
        assert (await get(http, "/v2/health/ready"))[0] == 503
        status, told = await get(http, "/v2/models/fashion")
        assert (status, "first did not answer" in told) == (503, True)
        async with open_triton(triton_port):
            await wait_for(address, "/readyz", (200, "ready\n"))
            assert (await get(http, "/v2/health/ready"))[0] == 200
            assert (await get(http, "/v2/models/fashion"))[0] == 200
        await wait_for(address, "/readyz", (503, "no server answers for fashion\n"))
        async with open_triton(triton_port):  # the same again, or another one
            await wait_for(address, "/readyz", (200, "ready\n"))


async def test_a_device_class_is_a_label_of_one_metric_and_stands_on_the_status_page(tmp_path: Path) -> None:
    fleet, path = fleet_on(*choose_free_ports(4)), tmp_path / "fleet.yaml"
    server = fleet.servers[0].model_copy(update={"device_class": "h100"})
    fleet = fleet.model_copy(update={"servers": (server,)})
    path.write_text(render_fleet(fleet))
    async with open_gateway(fleet, path) as gateway:
        assert gateway.metrics is not None
        _, page = await get(gateway.metrics.address, "/metrics")
        assert [line for line in page.splitlines() if "h100" in line] == [
            'slim_router_server_info{device_class="h100",server="first"} 1.0'
        ]
        document = json.loads((await get(gateway.metrics.address, "/status"))[1])
        assert [(each["name"], each["device_class"]) for each in document["servers"]] == [("first", "h100")]


async def test_who_replaces_a_gateway_that_serves_needs_a_server(tmp_path: Path) -> None:
    fleet, path = fleet_on(*choose_free_ports(4)), tmp_path / "fleet.yaml"
    path.write_text(render_fleet(fleet))
    with pytest.raises(ServerUnavailableError, match="no server serves a slimmable family"):
        async with open_gateway(fleet, path, requires_server=True):
            pass


async def test_health_is_answered_while_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(compilation, "_SCRIPT", "import time; time.sleep(600)")
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    settings = GatewaySettings(grpc=grpc, http=http, metrics=metrics)
    succession = Succession(settings, {}, replaces=False)

    def open_nothing(*_: object) -> None:
        raise AssertionError("it has not compiled yet")

    serving = asyncio.create_task(
        command._serve(open_nothing, succession, Announcement({}), settings, SighupHandler(), until_stdin_ends=False)  # type: ignore[arg-type]
    )
    await wait_for(metrics, "/livez", (200, "live\n"))
    assert await get(metrics, "/readyz") == (503, "it starts, or ends\n")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(metrics, "/livez")
