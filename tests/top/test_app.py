"""The terminal, driven by keys, at a small and a large size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("textual", reason="the terminal needs textual: pip install 'slim-scheduler[top]'")

from textual.widgets import DataTable, Sparkline, Static, Tab, Tabs

from orchestrator.top.app import Top
from orchestrator.top.events import read_document, watch
from orchestrator.top.tables import TABLES
from tests.gateway.page.fleets import Gateway, Minutes, admin_of
from tests.ports import choose_free_port
from tests.top.documents import busy_document


class Events:
    """Events that a test sends."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[dict[str, Any] | str] = asyncio.Queue()

    async def __call__(self) -> AsyncIterator[dict[str, Any] | str]:
        while True:
            yield await self.sent.get()


def text_of(app: Top, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).content)


def column(app: Top, name: str, index: int) -> list[str]:
    table = app.query_one(f"#{name}-table", DataTable)
    return [str(table.get_row_at(row)[index]) for row in range(table.row_count)]


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_all_that_matters_is_seen_at_once(size: tuple[int, int]) -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=size) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        assert text_of(app, "head").startswith("ready · lert:brownout")
        assert "Server edge-1 is ejected" in text_of(app, "alerts")
        assert column(app, "servers", 0) == ["edge-1", "edge-0"]  # those in trouble first, as on the page
        assert app.query_one(Sparkline).data
        table = app.query_one("#servers-table", DataTable)
        *most, last = table.ordered_columns
        assert sum(column.get_render_width(table) for column in most) + len(last.label) <= size[0]
        assert table.region.bottom <= size[1]
        assert table.region.height > table.row_count
        assert text_of(app, "detail").startswith("it failed")
        tabs = app.query_one(Tabs).query(Tab)
        assert [tab.label_text for tab in tabs] == [f"{n} {name}" for n, name in enumerate(TABLES, 1)]
        assert max(tab.region.right for tab in tabs) <= size[0]


async def test_the_frontier_and_what_the_policy_did_are_tables_too() -> None:
    events, document = Events(), await busy_document()
    document["policy"]["fallbacks"] = [{"reason": "raised", "per_s": 0.5}]
    document["traffic"]["sheds"] = [{"reason": "late", "per_s": 2.0}]
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        await pilot.press("5")
        await pilot.pause()
        assert column(app, "widths", 1) == ["25 %", "50 %", "75 %", "100 %"]
        assert column(app, "widths", 6)[-1] == "0.015"
        await pilot.press("6")
        await pilot.pause()
        assert column(app, "policy", 0) == ["policy decided", "fallback decided", "given up for load"]
        assert column(app, "policy", 1) == ["lert:brownout", "raised", "late"]
        assert text_of(app, "detail").startswith("lert:brownout, fallback lert:reserve\np50 ")
        table = app.query_one("#policy-table", DataTable)
        assert sum(each.get_render_width(table) for each in table.ordered_columns) <= 80


@pytest.mark.parametrize(("size", "cells"), [((80, 24), 42), ((200, 60), 150), ((60, 24), 22)])
async def test_graphs_fit_the_terminal_and_follow_its_events(size: tuple[int, int], cells: int) -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=size) as pilot:
        events.sent.put_nowait(document)
        await pilot.press("7")
        await pilot.pause()
        assert column(app, "graphs", 0)[:5] == ["latency p99", "queue", "answered/s", "quality", "25 % ans/s"]
        lines = column(app, "graphs", 3)
        assert {len(line) for line in lines} == {cells}
        assert set("".join(lines)) >= set("▁█")
        table = app.query_one("#graphs-table", DataTable)
        assert sum(each.get_render_width(table) for each in table.ordered_columns) <= size[0]
        assert table.region.bottom <= size[1]
        assert text_of(app, "detail").startswith("latency p99: ")
        keys, newest = document["points"]["keys"], document["points"]["rows"][-1]
        later = dict(zip(keys, newest, strict=True)) | {"unix_s": newest[0] + 2.0, "queue_items": 4321.0}
        events.sent.put_nowait(document | {"points": {"keys": keys, "rows": [[*later.values()]], "period_s": 2.0}})
        await pilot.pause()
        assert column(app, "graphs", 1)[1] == "4321"
        assert column(app, "graphs", 3)[1].endswith("█")
        assert len(app._points) > 2


async def test_what_the_gateway_leaves_out_is_counted() -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        assert not app.query_one("#detail").border_title
        events.sent.put_nowait(document | {"servers_total": 42, "families_found": 1000})
        await pilot.pause()
        assert app.query_one("#detail").border_title == "and 40 more servers"
        for key, told in (("2", "and 999 more families"), ("5", "and 999 more families"), ("3", "")):
            await pilot.press(key)
            await pilot.pause()
            assert app.query_one("#detail").border_title == told


async def test_keys_sort_and_change_tables_and_the_cursor_stays_on_its_row() -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        await pilot.press("down")
        assert text_of(app, "detail") == "edge-0 is in order"
        await pilot.press("s")  # by name, from A
        assert column(app, "servers", 0) == ["edge-0", "edge-1"]
        assert text_of(app, "detail") == "edge-0 is in order"
        document["servers"].append({**document["servers"][0], "name": "a", "reason": ""})
        events.sent.put_nowait(document | {"points": {**document["points"], "rows": []}})
        await pilot.pause()
        assert column(app, "servers", 0) == ["a", "edge-0", "edge-1"]
        assert text_of(app, "detail") == "edge-0 is in order"
        await pilot.press("4")
        await pilot.pause()
        assert text_of(app, "detail") == "8 items waited\nin time"
        await pilot.press("q")
    assert app.return_code == 0


async def test_numbers_are_sorted_from_the_largest_names_from_a_and_both_can_be_turned() -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        await pilot.press("s", "s", "s")
        rates = [float(text) for text in column(app, "servers", 2)]
        assert rates == sorted(rates, reverse=True)
        await pilot.press("r")
        assert [float(text) for text in column(app, "servers", 2)] == rates[::-1] != rates


async def test_while_the_gateway_is_away_what_stays_is_told_to_be_old() -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait("no gateway answers at x")
        await pilot.pause()
        assert text_of(app, "head") == "no gateway answers at x"
        events.sent.put_nowait(document)
        await pilot.pause()
        assert not app.screen.has_class("old")
        for missing in ("the gateway at x has ended", {"points": document["points"]}):
            events.sent.put_nowait(missing)
            await pilot.pause()
            told = time.strftime("%H:%M:%S", time.localtime(document["unix_s"]))
            assert text_of(app, "head").endswith(f" · below as of {told}")
            assert app.screen.has_class("old")
        events.sent.put_nowait(document)
        await pilot.pause()
        assert text_of(app, "head").startswith("ready")
        assert not app.screen.has_class("old")


async def test_a_gateway_that_says_nothing_more_is_told_with_how_long() -> None:
    """Such as one that is stopped, or whose machine is gone: its connection stays."""
    events, document, now_s = Events(), await busy_document(), 100.0
    app = Top(events, clock=lambda: now_s)
    async with app.run_test(size=(80, 24)) as pilot:

        async def told(start: str) -> str:
            async with asyncio.timeout(60):
                while not text_of(app, "head").startswith(start):
                    await pilot.pause(0.05)
            return text_of(app, "head")

        events.sent.put_nowait(document)
        await told("ready")
        now_s += 3 * document["points"]["period_s"] + 5
        assert " · below as of " in await told("no news for 10 s")
        assert app.screen.has_class("old")
        now_s += 5
        await told("no news for 15 s")
        events.sent.put_nowait(document)
        await told("ready")
        assert not app.screen.has_class("old")
        events.sent.put_nowait("the gateway at x has ended")
        await told("the gateway at x has ended")
        now_s += 60
        await pilot.pause(1.2)
        assert text_of(app, "head").startswith("the gateway at x has ended")


async def test_markup_in_names_and_reasons_is_text() -> None:
    events, document = Events(), await busy_document()
    document["servers"][0] |= {"name": "[red]x[/]", "reason": "[link=file:///]y"}
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        events.sent.put_nowait(document)
        await pilot.pause()
        assert column(app, "servers", 0)[0] == "[red]x[/]"
        assert text_of(app, "detail").startswith("[link=file:///]y")


async def test_a_document_of_another_version_ends_nothing() -> None:
    events, document = Events(), await busy_document()
    app = Top(events)
    async with app.run_test(size=(80, 24)) as pilot:
        for other in (
            {},
            {"points": {"keys": [], "rows": []}},
            document | {"policy": 3},
            {**document, "servers": [{}]},
            {key: value for key, value in document.items() if key != "unix_s"},
            {key: value for key, value in document.items() if key != "servers_total"},
            document | {"unix_s": 1e20},
        ):
            events.sent.put_nowait(other)
            await pilot.pause()
            await pilot.press("s", "r", "down")
            assert text_of(app, "head").startswith("what answers is no gateway of this version")
        events.sent.put_nowait(document)
        await pilot.pause()
        assert text_of(app, "head").startswith("ready")


async def test_a_gateway_that_is_away_is_told_and_watched_again_when_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.top.events._AGAIN_S", 0.01)
    port, gateway = choose_free_port(), Gateway()
    heard = watch(f"127.0.0.1:{port}")
    assert "no gateway answers" in str(await anext(heard))
    admin = admin_of(gateway, Minutes())
    admin.address = f"127.0.0.1:{port}"
    await admin.start()
    async with asyncio.timeout(60):
        while isinstance(document := await anext(heard), str):
            pass
        assert {"points"} <= document.keys()
        await admin.stop()
        while not isinstance(await anext(heard), str):
            pass
    await heard.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"junk", "no gateway answers at "),
        (b"null", "the gateway at "),
        (b"[]", "the gateway at "),
        (b'{"alerts": 3}', "the gateway at "),
        (b"<html>", "what answers at "),
        (b'{"alerts": []}', []),
    ],
)
async def test_alerts_are_read_once_or_it_is_told_why_not(answer: bytes, told: object) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer)
        writer.write(answer if answer == b"junk" else head + answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await read_document(f"{host}:{port}", timeout_s=60)
    assert found["alerts"] == told if isinstance(found, dict) else found.startswith(str(told))
