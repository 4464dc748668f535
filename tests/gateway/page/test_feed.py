"""The events of the status page over real connections, and what it is made of."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.config import ServerSettings
from orchestrator.gateway.page import feed as feeding
from orchestrator.gateway.page.feed import MOST_WATCHERS, StatusFeed
from orchestrator.gateway.page.sources import read_decisions
from tests.gateway.page.fleets import (
    Controllers,
    Gateway,
    Minutes,
    admin_of,
    controller_status,
    family_overview,
    fleet_overview,
    pass_busy_minutes,
)
from tests.ports import choose_free_ports
from tests.router.dispatch.test_explanation import candidate, record

PATIENCE_S = 60.0
ASSETS = Path(feeding.__file__).parent / "assets"


class Page:
    """A gateway's page as a client without a browser sees it."""

    def __init__(self, gateway: Gateway, clock: Minutes, feed: StatusFeed, address: str) -> None:
        self.gateway, self.clock, self.feed = gateway, clock, feed
        self.url = f"http://{address}"
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S))

    async def sample(self) -> None:
        self.clock.go_on(2.0)
        await self.feed.sample()

    @asynccontextmanager
    async def events(self, last_id: str = "", **query: str) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
        """Return the events as they come, each with its id."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with self.session.get(f"{self.url}/events", params=query, headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            yield _read_events(answer)

    async def until_watched_by(self, watchers: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.feed.watchers != watchers:
                await asyncio.sleep(0.01)


async def _read_events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    name = ""
    while line := (await answer.content.readuntil(b"\n")).decode():
        if line.startswith("id: "):
            name = line[4:].strip()
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


@asynccontextmanager
async def open_page(gateway: Gateway | None = None, **feed: Any) -> AsyncIterator[Page]:
    gateway, clock = gateway or Gateway(), Minutes()
    admin = admin_of(gateway, clock)
    admin.feed = StatusFeed(lambda: gateway, clock=clock, steady_clock=clock.steady, **feed)
    await admin.start()
    page = Page(gateway, clock, admin.feed, admin.address)
    try:
        await page.feed.sample()
        yield page
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await admin.stop()
        await page.session.close()


async def test_who_opens_the_page_sees_the_minutes_before() -> None:
    async with open_page() as page:
        await pass_busy_minutes(page.feed, page.gateway, page.clock, 20)
        async with page.events() as events:
            _, first = await anext(events)
            assert len(first["points"]["rows"]) == 20
            assert first["traffic"]["answered_per_s"] > 0
            page.gateway.end("ok", 30, width=25, server="edge-0")
            await page.sample()
            _, second = await anext(events)
    [row] = second["points"]["rows"]
    point = dict(zip(second["points"]["keys"], row, strict=True))
    assert (point["answered_per_s"], point["per_s_by_width"]["25"]) == (15.0, 15.0)


async def test_a_browser_that_slept_gets_what_it_has_missed_and_nothing_twice() -> None:
    async with open_page() as page:
        await pass_busy_minutes(page.feed, page.gateway, page.clock, 10)
        async with page.events() as events:
            seen, _ = await anext(events)
        for _ in range(3):
            await page.sample()
        async with page.events(last_id=seen) as events:
            _, event = await anext(events)
    assert len(event["points"]["rows"]) == 3


@pytest.mark.parametrize("last_id", ["-1", "x", "9" * 400])
async def test_an_id_that_is_none_of_ours_is_as_good_as_none(last_id: str) -> None:
    async with open_page() as page:
        await page.sample()
        async with page.events(last_id=last_id) as events:
            assert len((await anext(events))[1]["points"]["rows"]) == 1


async def test_pages_that_are_open_are_bounded_and_one_that_closes_makes_room() -> None:
    async with open_page() as page:
        opened = [await page.session.get(f"{page.url}/events") for _ in range(MOST_WATCHERS)]
        await page.until_watched_by(MOST_WATCHERS)
        async with page.session.get(f"{page.url}/events") as refused:
            assert (refused.status, "close one" in await refused.text()) == (503, True)
        opened.pop().close()
        while page.feed.watchers == MOST_WATCHERS:  # it is seen to be gone when something is sent to it
            await page.sample()
            await asyncio.sleep(0.01)
        async with page.events() as events:
            await anext(events)
        for answer in opened:
            answer.close()


async def test_a_browser_that_takes_nothing_is_let_go() -> None:
    overview = fleet_overview(families=tuple(family_overview(f"family-{n}") for n in range(50)))
    async with open_page(Gateway(overview), slow_s=0.2) as page:
        host, _, port = page.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as asleep:
            asleep.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            await page.until_watched_by(1)
            async with asyncio.timeout(PATIENCE_S):
                while page.feed.watchers:
                    await page.sample()
                    await asyncio.sleep(0)


async def test_a_gateway_that_ends_lets_pages_go_at_once() -> None:
    async with open_page() as page, page.events() as events:
        await anext(events)
        await page.feed.stop()
        with pytest.raises((StopAsyncIteration, asyncio.IncompleteReadError, aiohttp.ClientError)):
            while True:
                await anext(events)


async def test_before_there_is_a_gateway_and_after_its_end_events_say_so() -> None:
    async with open_page() as page:
        page.feed._gateway = lambda: None
        await page.feed.sample()
        async with page.events() as events:
            _, event = await anext(events)
    assert set(event) == {"points"}


async def test_a_clock_that_was_set_back_begins_anew() -> None:
    async with open_page() as page:
        await pass_busy_minutes(page.feed, page.gateway, page.clock, 5)
        page.clock.now_unix_s -= 3600
        await page.feed.sample()
        await page.sample()
        async with page.events() as events:
            _, event = await anext(events)
    assert [row[0] for row in event["points"]["rows"]] == [page.clock.now_unix_s]


@pytest.mark.parametrize("set_s", [3600.0, -1.5])
async def test_rates_are_over_the_time_that_passed_whatever_the_clock_was_set_to(set_s: float) -> None:
    async with open_page() as page:
        page.gateway.end("ok", 30, width=25, server="edge-0")
        page.clock.now_unix_s += set_s
        await page.sample()
        async with page.events() as events:
            _, event = await anext(events)
    point = dict(zip(event["points"]["keys"], event["points"]["rows"][-1], strict=True))
    assert (event["traffic"]["answered_per_s"], point["answered_per_s"]) == (15.0, 15.0)
    assert event["window_s"] == 2.0


async def test_a_page_that_is_open_while_the_clock_is_set_back_gets_what_comes_after() -> None:
    async with open_page() as page:
        await pass_busy_minutes(page.feed, page.gateway, page.clock, 5)
        async with page.events() as events:
            seen, _ = await anext(events)
            page.clock.now_unix_s -= 3600
            await page.sample()
            await anext(events)
            await page.sample()
            _, event = await anext(events)
            assert [row[0] for row in event["points"]["rows"]] == [page.clock.now_unix_s]
        async with page.events(last_id=seen) as events:  # one that slept meanwhile
            assert (await anext(events))[1]["points"] == event["points"]


async def test_controllers_are_asked_only_while_somebody_watches() -> None:
    gateway = Gateway()
    async with Controllers({"edge-0": controller_status("edge-0")}) as controllers:
        gateway.servers = controllers.servers
        async with open_page(gateway) as page:
            await pass_busy_minutes(page.feed, page.gateway, page.clock, 5)
            assert controllers.asked == 0
            async with page.events() as events:
                _, event = await anext(events)
            assert controllers.asked == 1
    assert event["servers"][0]["controller"]["power_w"] == 41.3


async def test_a_controller_that_is_away_or_another_servers_is_told_with_the_reason() -> None:
    gateway = Gateway()
    [free] = choose_free_ports(1)
    async with Controllers({"edge-1": controller_status("somebody")}) as controllers:
        away = ServerSettings(name="edge-0", grpc="127.0.0.1:1", controller=f"127.0.0.1:{free}")
        gateway.servers = (away, *controllers.servers)
        async with open_page(gateway) as page, page.session.get(f"{page.url}/status") as answer:
            servers = (await answer.json())["servers"]
    reasons = [server["controller"]["reason"] for server in servers]
    assert reasons[0].startswith(f"no answer at 127.0.0.1:{free}")
    assert reasons[1].endswith("is not this server's; correct 'controller' in fleet.yaml")


async def test_families_are_found_by_a_part_of_their_name() -> None:
    overview = fleet_overview(families=tuple(family_overview(f"family-{n:03}") for n in range(100)))
    async with open_page(Gateway(overview)) as page, page.events(find="-07") as events:
        _, event = await anext(events)
    assert [family["name"] for family in event["families"]] == [f"family-07{n}" for n in range(10)]


async def test_nothing_asks_for_a_token_unless_set_and_one_that_comes_is_not_looked_at() -> None:
    async with open_page() as page:
        for headers in ({}, {"Authorization": "Bearer nobody"}):
            for path in ("/", "/status", "/metrics"):
                async with page.session.get(page.url + path, headers=headers) as answer:
                    assert answer.status == 200
                    assert "Access-Control-Allow-Origin" not in answer.headers
        async with page.session.post(f"{page.url}/events") as answer:
            assert answer.status == 405


async def test_the_page_loads_nothing_from_elsewhere_and_may_not() -> None:
    async with open_page() as page:
        for name in ("", "page.css", "page.js", "chart.js", "words.js"):
            async with page.session.get(f"{page.url}/{name}") as answer:
                text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
            assert text == (ASSETS / (name or "page.html")).read_text()
            assert "default-src 'none'" in policy
            assert set(re.findall(r"https?://[^'\"\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_last_decisions_of_all_routers_are_told_in_the_words_of_why(tmp_path: Path) -> None:
    shared = {"family": "fashion", "fault": None}
    queue = {"items": 9, "head_items": 1, "priority": 2}
    outcome = {"error": None, "items": 4, "service_s": 0.012, "requests": [{"in_time": True}, {"in_time": False}]}
    for run, at in (("aa", 100.0), ("bb", 300.0)):
        lines = [
            json.dumps(
                record(candidate("a", 25), **queue) | shared | {"id": f"{run}-{n}", "at": at + n, "outcome": outcome}
            )
            for n in range(9)
        ]
        (tmp_path / f"decisions-{run}.jsonl").write_text(
            "\n".join([*lines, "[1]", '{"id": "of another version"}', '{"cut'])
        )
    found = read_decisions(tmp_path)
    assert [decision.id for decision in found] == [*(f"bb-{n}" for n in range(8, -1, -1)), "aa-8", "aa-7", "aa-6"]
    assert found[0].title == "4 to a at 25 %: least expected completion"
    assert found[0].lines[0].startswith("bb-8 of fashion, 1970-01-01 00:05:08 UTC, decided by lert:brownout")
    assert found[0].lines[-1] == "4 items of 2 requests ran for 12.0 ms; 1 in time"
    assert read_decisions(tmp_path / "nowhere") == []
