"""Who may see the status page: everybody, or tenants whose lines in the tokens file say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from orchestrator.config import TenantSettings
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.auth.callers import Guard
from orchestrator.top.events import read_document, watch
from tests.gateway.auth.test_tenants import digest, write
from tests.gateway.fakes import open_world
from tests.gateway.page.fleets import Gateway, Minutes, admin_of, pass_busy_minutes

PATIENCE_S = 60.0
OPERATIONS, VISION = "token-of-operations", "token-of-vision"


def tenant(name: str, token: str, *, sees_status: bool) -> TenantSettings:
    return TenantSettings(name=name, tokens=(digest(token),), sees_status=sees_status)


def close(admin: AdminEndpoint) -> None:
    """Keep a page for one of two tenants."""
    tenants = (tenant("operations", OPERATIONS, sees_status=True), tenant("vision", VISION, sees_status=False))
    admin.guard = Guard(tenants, is_status_open=False)


@asynccontextmanager
async def closed_page() -> AsyncIterator[AdminEndpoint]:
    gateway, clock = Gateway(), Minutes()
    admin = admin_of(gateway, clock)
    close(admin)
    await pass_busy_minutes(admin.feed, gateway, clock, 3)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.stop()


async def ask(admin: AdminEndpoint, path: str, *headers: tuple[str, str], method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
        session.request(method, f"http://{admin.address}{path}", headers=headers) as answer,
    ):
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        return answer.status, "" if answer.content_type == "text/event-stream" else await answer.text()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


@pytest.mark.parametrize("path", ["/status", "/events", "/status?token=token-of-operations"])
async def test_only_tokens_with_the_right_see_what_the_page_shows_and_others_are_told_why(path: str) -> None:
    async with closed_page() as admin:
        status, said = await ask(admin, path)
        assert (status, said.partition(";")[0]) == (401, "a token is missing")
        status, said = await ask(admin, path, bearer("nobody's"))
        assert (status, said.partition(";")[0]) == (401, "the token is not known")
        assert (await ask(admin, path, bearer(OPERATIONS), bearer(OPERATIONS)))[0] == 401
        status, said = await ask(admin, path, bearer(VISION))
        assert (status, said.partition(";")[0]) == (403, "tenant 'vision' may not see the status page")
        assert (await ask(admin, path, bearer(VISION), method="HEAD"))[0] in (403, 404)
        assert (await ask(admin, path, bearer(OPERATIONS)))[0] == 200


async def test_the_empty_page_health_and_metrics_need_no_token() -> None:
    async with closed_page() as admin:
        for path in ("/", "/page.js", "/page.css", "/livez", "/healthz", "/readyz", "/metrics"):
            assert (await ask(admin, path))[0] == 200
            assert (await ask(admin, path, bearer(VISION)))[0] == 200


async def test_a_page_that_is_open_ends_when_its_token_is_revoked() -> None:
    async with closed_page() as admin, aiohttp.ClientSession(headers=[bearer(OPERATIONS)]) as session:
        async with asyncio.timeout(PATIENCE_S), session.get(f"http://{admin.address}/events") as answer:
            assert (await answer.content.readline()).startswith(b"id: ")
            admin.guard.replace((tenant("operations", OPERATIONS, sees_status=False),))
            await admin.feed.sample()
            await answer.content.read()  # until it ends
        assert (await ask(admin, "/events", bearer(OPERATIONS)))[0] == 403


async def test_after_a_gateway_has_ended_nothing_is_left_open() -> None:
    async with closed_page() as admin:
        admin.gateway = None
        assert (await ask(admin, "/events"))[0] == 401


async def test_a_terminal_says_why_it_is_refused_and_shows_all_with_the_token() -> None:
    async with closed_page() as admin:
        assert "refuses: a token is missing" in str(await read_document(admin.address, timeout_s=PATIENCE_S))
        said = await read_document(admin.address, timeout_s=PATIENCE_S, token=VISION)
        assert "refuses: tenant 'vision' may not see the status page" in str(said)
        assert isinstance(await read_document(admin.address, timeout_s=PATIENCE_S, token=OPERATIONS), dict)
        refused, shown = watch(admin.address), watch(admin.address, token=OPERATIONS)
        assert "(--token, or SLIMSCHED_TOKEN in the environment)" in str(await anext(refused))
        assert "traffic" in await anext(shown)
        for heard in (refused, shown):
            await heard.aclose()  # type: ignore[attr-defined]


async def test_a_gateways_tokens_file_says_who_sees_its_page(tmp_path: Path) -> None:
    path, vision = tmp_path / "tokens.yaml", {"name": "vision", "tokens": [digest(VISION)]}
    write(path, vision)
    async with open_world(auth={"tokens_file": path}) as world:
        assert world.gateway.metrics is not None
        assert (await ask(world.gateway.metrics, "/status"))[0] == 200
    async with open_world(auth={"tokens_file": path, "open_status": False}) as world:
        admin = world.gateway.metrics
        assert admin is not None
        assert [(await ask(admin, "/status", *given))[0] for given in ((), (bearer(VISION),))] == [401, 403]
        write(path, {**vision, "sees_status": True})
        world.gateway.reload()
        assert (await ask(admin, "/status", bearer(VISION)))[0] == 200
