"""The page in Chromium: what is to be read there, for eyes, keyboards and screen readers, and what can't harm it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from orchestrator.gateway.admin import AdminEndpoint
from tests.gateway.page.fleets import (
    START_UNIX_S,
    Controllers,
    Gateway,
    Minutes,
    admin_of,
    controller_status,
    family_overview,
    fleet_overview,
    pass_busy_minutes,
    server_overview,
)
from tests.gateway.page.test_access import OPERATIONS, VISION, close
from tests.gateway.running import Addresses, fetch
from tests.router.dispatch.test_explanation import candidate, record

pytestmark = pytest.mark.integration

PATIENCE_MS = 60_000
Scheme = Literal["light", "dark"]
KINDS: list[tuple[int, Scheme]] = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on PATH; Debian has it in the package chromium")
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


@asynccontextmanager
async def looking(
    address: str, browser: Browser, *, width: int = 1280, scheme: Scheme = "light"
) -> AsyncIterator[Page]:
    """Open the page; nothing in it may fail, and nothing may be asked of any other host."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, problems = await context.new_page(), list[str]()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: "Security Policy" not in message.text or problems.append(message.text))
    page.on("request", lambda request: address in request.url or problems.append(request.url))
    await page.goto(f"http://{address}/")
    await expect(page.locator("#live")).to_have_text("Live")
    yield page
    assert [problem for problem in problems if not problem.startswith("data:")] == []
    await context.close()


@asynccontextmanager
async def serving(gateway: Gateway, minutes: int = 10) -> AsyncIterator[AdminEndpoint]:
    clock = Minutes()
    admin = admin_of(gateway, clock)
    await admin.feed.sample()
    await pass_busy_minutes(admin.feed, gateway, clock, 30 * minutes - 15)
    async with started(admin):
        yield admin


@asynccontextmanager
async def started(admin: AdminEndpoint) -> AsyncIterator[None]:
    await admin.start()
    try:
        yield
    finally:
        await admin.stop()


def troubled() -> Gateway:
    away = server_overview("edge-2", condition="down", reason="failed to connect", models=0, instances=())
    servers = (server_overview("edge-0"), server_overview("edge-1", left_out=("fashion_w100",)), away)
    return Gateway(fleet_overview(servers=servers))


@pytest.mark.parametrize(("width", "scheme"), KINDS)
async def test_all_that_an_incident_asks_for_is_there_and_fits(width: int, scheme: Scheme, tmp_path: Path) -> None:
    gateway = troubled()
    joules = {"idle_w": 21.5, "idle_j": 9300.0, "models": [{"label": "w025", "request_j": 0.0021}]}
    statuses = {name: controller_status(name, **joules) for name in ("edge-0", "edge-1")}
    async with Controllers(statuses) as controllers, browsing() as browser:
        gateway.servers = controllers.servers
        async with serving(gateway) as admin, looking(admin.address, browser, width=width, scheme=scheme) as page:
            await expect(page.locator("#alerts li").first).to_have_text("Server edge-2 is down: failed to connect")
            await expect(page.locator("#servers .card h3")).to_have_text(["edge-2", "edge-0", "edge-1"])
            await expect(page.locator("#servers .card").nth(1)).to_contain_text("62 %")
            await expect(page.locator("#servers .card").nth(1)).to_contain_text("21.5 W, 9,300 J so far")
            await expect(page.locator("#servers .card").nth(1)).to_contain_text("w025: 0.0021 J a request")
            await expect(page.locator("#policy")).to_contain_text("lert:brownout")
            await expect(page.locator("#actions li").first).to_contain_text("failed: out of memory")
            await expect(page.locator("#frontier tbody tr")).to_have_count(4)
            assert (await page.locator("#frontier thead th").all_inner_texts())[2] == "In time"
            await expect(page.locator("#frontier tbody tr").last.locator("td").nth(1)).to_have_text("100 %")
            await expect(page.locator("#frontier .label").last).to_have_text("100 %, 0.015 J")
            await expect(page.locator("#chart-widths .legend li")).to_have_count(4)
            await expect(page.locator("#families tbody th")).to_have_text(["fashion"])
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            await page.screenshot(path=tmp_path / "page.png", full_page=True)
            assert (tmp_path / "page.png").stat().st_size > 30_000
            found = await Axe().run(page)
            assert [violation["id"] for violation in found.response["violations"]] == []


async def test_charts_are_read_with_the_keyboard() -> None:
    async with browsing() as browser, serving(Gateway()) as admin, looking(admin.address, browser) as page:
        plot = page.locator("#chart-ends .plot")
        await plot.focus()
        await page.keyboard.press("Home")
        await expect(page.locator("#chart-ends [aria-live]")).to_contain_text("s ago: Answered")
        await expect(page.locator("#chart-ends .time")).to_have_count(1)
        await page.keyboard.press("Escape")
        await expect(page.locator("#chart-ends .time")).to_have_count(0)


async def test_a_charts_cursor_stays_on_its_moment_while_points_come_and_go() -> None:
    gateway, clock = Gateway(), Minutes()
    admin = admin_of(gateway, clock)
    await pass_busy_minutes(admin.feed, gateway, clock, 295)  # of the 300 that a page keeps
    async with browsing() as browser, started(admin), looking(admin.address, browser) as page:
        plot, time = page.locator("#chart-ends .plot"), page.locator("#chart-ends .time")
        await plot.focus()
        await page.keyboard.press("PageUp")
        await expect(plot).to_have_attribute("aria-label", re.compile("[.] 30 s ago: "))
        moment = await time.inner_text()
        await pass_busy_minutes(admin.feed, gateway, clock, 40)
        await expect(plot).to_have_attribute("aria-label", re.compile("[.] 110 s ago: "))
        assert await time.inner_text() == moment
        await page.keyboard.press("ArrowRight")
        await expect(plot).to_have_attribute("aria-label", re.compile("[.] 108 s ago: "))
        await pass_busy_minutes(admin.feed, gateway, clock, 260)
        await expect(time).to_have_count(0)  # that moment is no longer kept


def write_decisions(directory: Path, numbers: range) -> None:
    shared = {"family": "fashion", "fault": None}
    outcome = {"error": None, "items": 4, "service_s": 0.012, "requests": [{"in_time": True}]}
    queue = {"items": 9, "head_items": 1, "priority": 2}
    records = [
        record(candidate("a", 25), **queue) | shared | {"id": f"aa-{n}", "at": START_UNIX_S + n, "outcome": outcome}
        for n in numbers
    ]
    with (directory / "decisions-aa.jsonl").open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in records)


async def test_a_decision_that_is_open_stays_until_it_is_closed_though_many_newer_ones_come(tmp_path: Path) -> None:
    gateway = Gateway(fleet_overview(decision_log=str(tmp_path)))
    write_decisions(tmp_path, range(12))
    async with browsing() as browser, serving(gateway, 1) as admin, looking(admin.address, browser) as page:
        details = page.locator("#decisions details")
        await expect(details).to_have_count(12)
        await details.nth(3).locator("summary").click()
        write_decisions(tmp_path, range(100, 150))
        await expect(details.first).to_contain_text("aa-149")
        await expect(details.locator("code")).to_have_text([*(f"aa-{n}" for n in range(149, 137, -1)), "aa-8"])
        await expect(details.last).to_have_attribute("open", "")
        await expect(details.last.locator("p").last).to_be_visible()
        await details.last.locator("summary").click()
        await expect(details).to_have_count(12)


async def test_a_clock_that_is_set_back_lets_an_open_page_draw_anew() -> None:
    gateway, clock = Gateway(), Minutes()
    admin = admin_of(gateway, clock)
    await pass_busy_minutes(admin.feed, gateway, clock, 30)
    async with browsing() as browser, started(admin), looking(admin.address, browser) as page:
        plot = page.locator("#chart-ends .plot")
        await plot.focus()
        clock.now_unix_s -= 3600
        await pass_busy_minutes(admin.feed, gateway, clock, 3)
        async with asyncio.timeout(PATIENCE_MS / 1e3):  # it was on a moment that is gone, until the page draws anew
            while ". 2 s ago: " not in (await plot.get_attribute("aria-label") or ""):
                await page.keyboard.press("Home")


async def test_what_needs_attention_is_told_to_who_listens_and_keeps_the_focus_while_its_numbers_change() -> None:
    servers = [server_overview(f"edge-{n}", condition="down", reason=f"for {n} s", models=0) for n in range(11)]
    gateway = Gateway(fleet_overview(servers=tuple(servers)))
    async with browsing() as browser, serving(gateway, 1) as admin, looking(admin.address, browser) as page:
        told, links = page.locator("#told[role=status]"), page.locator("#alerts a")
        await expect(told).to_have_text(re.compile("^1[12] things need attention[.] "))
        await expect(page.locator("#alerts > p")).to_have_text(re.compile("^and [34] more$"))
        words, link = await told.text_content(), links.filter(has_text="edge-1 ")
        await link.focus()
        servers[1] = replace(servers[1], reason="for 77 s")
        gateway.overview = fleet_overview(servers=tuple(servers))
        await expect(page.locator("#alerts a:focus")).to_have_text("Server edge-1 is down: for 77 s")
        assert await told.text_content() == words
        gateway.overview = fleet_overview(servers=tuple(servers[:2]))
        await expect(told).to_have_text(re.compile("^[23] things need attention[.] "))
        await expect(page.locator("#alerts > p")).to_be_hidden()
        worse = [servers[0], *(replace(server, condition="suspect") for server in servers[1:4])]
        gateway.overview = fleet_overview(servers=tuple(worse))
        await links.filter(has_text="edge-3 is suspect").focus()
        gateway.overview = fleet_overview(servers=(*worse[:3], servers[3]))
        await expect(page.locator("#alerts a:focus")).to_have_text("Server edge-3 is down: for 3 s")


@pytest.mark.parametrize(
    ("status", "said"), [(503, "refused: too many pages are open"), (500, "refused: the answer is 500")]
)
async def test_a_page_whose_events_are_refused_says_why(status: int, said: str) -> None:
    async with browsing() as browser, serving(Gateway(), 1) as admin, looking(admin.address, browser) as page:
        await page.route("**/events?*", lambda route: route.fulfill(status=status))
        await page.reload()
        await expect(page.locator("#live")).to_have_text(said)
        await page.unroute("**/events?*")
        await expect(page.locator("#live")).to_have_text("Live")


async def test_gateways_that_share_the_fleet_are_named() -> None:
    gateway = Gateway(fleet_overview(servers=(server_overview("edge-0", driver="gateway-1"),)))
    async with browsing() as browser, serving(gateway, 1) as admin, looking(admin.address, browser) as page:
        await expect(page.locator("#gateways")).to_be_hidden()
        gateway.overview = replace(gateway.overview, gateways=("gateway-0", "gateway-1"))
        await expect(page.locator("#gateways")).to_have_text("Gateways that share the fleet: gateway-0, gateway-1")
        await expect(page.locator("#servers .card")).to_contain_text("Driven bygateway-1")


async def test_one_of_a_thousand_models_is_found_and_names_are_never_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    families = (*(family_overview(f"family-{n:04}") for n in range(1000)), family_overview(evil))
    gateway = Gateway(fleet_overview(families=families))
    async with browsing() as browser, serving(gateway, 1) as admin, looking(admin.address, browser) as page:
        await expect(page.locator("#families small")).to_contain_text("the busiest 50 shown")
        await page.fill("#find", "0977")
        await expect(page.locator("#families tbody th")).to_have_text(["family-0977"])
        await page.fill("#find", "onerror")
        await expect(page.locator("#families tbody th")).to_have_text([evil])
        assert await page.locator("main img").count() == 0
        await page.fill("#find", "nothing like it")
        await expect(page.locator("#families > .empty")).to_have_text("No model has that in its name.")


async def test_a_gateway_that_was_away_is_shown_again_when_it_is_back() -> None:
    gateway = Gateway()
    async with browsing() as browser, serving(gateway, 1) as admin, looking(admin.address, browser) as page:
        address = admin.address
        await admin.stop()
        await expect(page.locator("#live")).to_contain_text("no news for")
        back = admin_of(gateway, Minutes())
        back.address = address
        await back.start()
        try:
            await expect(page.locator("#live")).to_have_text("Live")
        finally:
            await back.stop()


async def test_the_page_of_a_real_gateway_shows_what_real_tritons_answer(gateway: Addresses) -> None:
    body = json.dumps(
        {"inputs": [{"name": "pixels", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]}
    ).encode()
    async with browsing() as browser, looking(gateway.metrics, browser) as page:
        await expect(page.locator("#servers .card .badge")).to_have_text(["up", "up"])
        await expect(page.locator("#servers .chips").first).to_contain_text("100 % × 1")
        for _ in range(20):
            assert (await asyncio.to_thread(fetch, gateway, "/v2/models/fashion/infer", body))[0] == 200
        row = page.locator("#families tbody tr").filter(has_text="fashion")
        await expect(row.locator("td").nth(4)).to_have_text("0 %")  # failed
        await expect(row.locator("td").nth(1)).to_have_text("100 %")
        await expect(page.locator("#chart-widths .legend li").last).to_contain_text("%")
        await expect(page.locator("#ready")).to_have_text("Ready")


async def test_a_page_that_is_kept_for_some_tokens_asks_for_one_and_says_what_is_wrong_with_it() -> None:
    async with browsing() as browser, serving(Gateway(), 1) as admin:
        close(admin)
        context = await browser.new_context()
        page, asked = await context.new_page(), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://{admin.address}/")
        why, field = page.locator("#token-why"), page.get_by_role("textbox", name="Token")
        await expect(why).to_contain_text("kept for tokens of tenants that have sees_status")
        await expect(field).to_be_focused()
        await expect(page.locator("#live")).to_have_text("closed")
        assert [violation["id"] for violation in (await Axe().run(page)).response["violations"]] == []
        for token, said in (("nobody's", "This token is not known."), (VISION, "tenant 'vision' may not see")):
            await field.fill(token)
            await page.keyboard.press("Enter")
            await expect(why).to_contain_text(said)
            await expect(page.locator("#traffic")).to_be_hidden()
        await field.fill(OPERATIONS)
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("#token")).to_be_hidden()
        await expect(page.locator("#servers .card")).to_have_count(2)
        await page.reload()  # the tab keeps it
        await expect(page.locator("#live")).to_have_text("Live")
        close(admin)
        admin.guard.replace(())  # revoked
        await expect(why).to_have_text("This token is not known.")
        await expect(page.locator("#servers")).to_be_hidden()
        close(admin)
        other = await (await browser.new_context()).new_page()
        await other.goto(f"http://{admin.address}/#token={OPERATIONS}")
        await expect(other.locator("#live")).to_have_text("Live")
        assert other.url == f"http://{admin.address}/"
        assert not [url for url in asked if "token" in url]
