"""What a router is told of the devices of its servers, by what their controllers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from orchestrator.config import RouterSettings, ServerSettings
from orchestrator.controller.status.document import encode_status
from orchestrator.gateway.devices import DeviceReader, device_state
from orchestrator.gateway.page.observed import Controller
from orchestrator.policies.learned.policy import SHIPPED
from orchestrator.router import Router
from orchestrator.snapshot import UNKNOWN_DEVICE, DeviceState, ServerName
from tests.controller.status.reports import full_report

SERVERS = tuple(ServerSettings(name=name, grpc="127.0.0.1:1", controller="127.0.0.1:2") for name in ("a", "b", "c"))


def status(utilisation: float | None, used_mib: float | None, power_w: float | None) -> dict[str, Any]:
    """Return a controller's document, with some of its readings."""
    document = encode_status(full_report())
    document["utilisation_ratio"]["value"], document["power_w"]["value"] = utilisation, power_w
    document["memory"]["used_bytes"]["value"] = None if used_mib is None else used_mib * 2**20
    document["memory"]["budget_bytes"] = 1000 * 2**20
    return document


def test_a_document_is_read_as_its_controller_writes_it() -> None:
    assert device_state(status(0.4, 250, 60), 80.0) == DeviceState(0.4, 0.25, 0.75)
    assert device_state(status(0.0, 0, 0), 0.0) == DeviceState(0.0, 0.0, None)
    assert device_state(status(None, None, None), 80.0) == UNKNOWN_DEVICE
    assert device_state(status(1.0, 1200, 80), 80.0).memory_ratio == 1.0  # others use it too


@pytest.mark.parametrize(
    "document", [{}, {"memory": 3}, {"power_w": {"value": "much"}}, {"memory": {"used_bytes": []}}]
)
def test_what_is_no_such_document_says_nothing(document: Mapping[str, Any]) -> None:
    assert device_state(document, 50.0) == UNKNOWN_DEVICE


class Asked:
    """Controllers that say what they are given, and who asked them."""

    def __init__(self) -> None:
        self.says: dict[str, Controller] = {}
        self.calls = 0

    async def __call__(
        self, session: aiohttp.ClientSession, servers: Iterable[ServerSettings]
    ) -> dict[str, Controller]:
        assert [server.name for server in servers] == ["a", "b", "c"]
        self.calls += 1
        return self.says


class RecordingRouter:
    """A router that notes what it is told."""

    def __init__(self, *, sees_devices: bool) -> None:
        self.membership = SimpleNamespace(servers=SERVERS)
        self.sees_devices = sees_devices
        self.states: Mapping[ServerName, DeviceState] = {}

    def note_devices(self, states: Mapping[ServerName, DeviceState]) -> None:
        self.states = states


async def test_power_is_of_the_most_that_a_server_has_drawn_and_who_is_silent_shows_nothing() -> None:
    router, asked = RecordingRouter(sees_devices=True), Asked()
    reader = DeviceReader(router, asked)  # type: ignore[arg-type]
    async with aiohttp.ClientSession() as session:
        for power_w, expected in ((50, 1.0), (100, 1.0), (25, 0.25)):
            asked.says = {"a": Controller(status(0.5, 500, power_w)), "b": Controller(None, "no answer")}
            await reader.read(session)
            assert router.states == {"a": DeviceState(0.5, 0.5, expected), "b": UNKNOWN_DEVICE}


async def test_nobody_is_asked_for_a_router_that_does_not_look() -> None:
    router, asked = RecordingRouter(sees_devices=False), Asked()
    async with aiohttp.ClientSession() as session:
        await DeviceReader(router, asked).read(session)  # type: ignore[arg-type]
    assert asked.calls == 0


@pytest.mark.parametrize(
    ("settings", "sees"),
    [
        ({"policy": "lert:slack"}, False),
        ({"policy": "ppo-slim"}, True),
        ({"policy": "thrift", "shadow_policy": "ppo-slim"}, True),
    ],
)
async def test_a_router_looks_where_a_learned_policy_decides_or_is_in_the_shadow(
    settings: dict[str, Any], sees: bool
) -> None:
    assert (SHIPPED / "ppo-slim.npz").is_file()
    assert Router(RouterSettings.model_validate(settings), {}).sees_devices is sees
