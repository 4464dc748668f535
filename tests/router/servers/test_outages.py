"""What is said of servers of which none is expected to answer."""

from __future__ import annotations

import asyncio
import math

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router.queue.request import BatchKey
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.outages import describe_outage, describe_servers
from orchestrator.snapshot import Family, ServerName, Width
from tests.fakes.servers import FakeServer, served_model

pytestmark = pytest.mark.virtual_time
KEY = BatchKey(Family("fashion"), ((1, 4, 4),), (Width(50), Width(100)))


def fleet(names: str = "ab") -> dict[ServerName, ServerConnection]:
    servers = {}
    for name in map(ServerName, names):
        servers[name] = server = ServerConnection(name, FakeServer(), RouterSettings(), lambda server: 0.0)
        server.served = tuple(served_model(width) for width in (50, 100))
        server.health.note_reachable(now_s=0.0)
    return servers


async def test_nothing_is_said_while_one_server_answers_what_is_asked_for() -> None:
    servers = fleet()
    servers[ServerName("a")].note_unreachable("refused")
    assert describe_outage(servers, KEY, math.inf) is None
    assert describe_servers(servers) == ("a: refused; b: 2 models", True)


async def test_of_each_server_it_is_said_why_it_does_not_answer() -> None:
    servers = fleet("abcd")
    gone, foreign, silent, given_up = servers.values()
    for server in (gone, given_up):
        server.note_unreachable("refused")
    foreign.is_driven = given_up.is_driven = False
    silent.health.note_overdue(served_model(50).name, sent_s=0.0)
    await asyncio.sleep(2.0)
    told = "a can't be reached, b is driven by another gateway, c has answered nothing for 2.0 s, d can't be reached"
    assert describe_outage(servers, KEY, -math.inf) == told
    assert describe_servers(servers) == ("a: refused; b: driven by another gateway; c: 2 models; d: refused", True)
    assert describe_outage(servers, KEY, math.inf) is None, "they may all be back by then"


async def test_a_model_that_is_out_alone_is_named_and_what_nobody_asked_for_is_not() -> None:
    servers = fleet("a")
    health = servers[ServerName("a")].health
    health.suspend([served_model(50).name])
    health.note_answer(served_model(100).name, now_s=0.0)
    only_half = BatchKey(KEY.family, KEY.item_shapes, (Width(50),))
    assert describe_outage(servers, only_half, -math.inf) == "fashion_w050 on a is out"
    assert describe_outage(servers, KEY, -math.inf) is None


async def test_of_many_reasons_four_are_told_and_how_many_there_are_besides() -> None:
    servers = fleet("abcdef")
    for server in servers.values():
        server.note_unreachable("refused")
    told = describe_outage(servers, KEY, -math.inf)
    assert told is not None
    assert told.count("can't be reached") == 4
    assert told.endswith(", and 2 more")
