"""Tokens and quotas over both transports, on a running gateway over a fake fleet."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import pytest_asyncio
import yaml

from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.fakes import World, open_world

TOKEN, SMALL, OLD = "token-of-vision", "token-of-small", "token-of-old"
INFER = "/v2/models/fashion/infer"


def digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def write(path: Path, *tenants: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump({"tenants": list(tenants)}))


VISION = {"name": "vision", "tokens": [digest(TOKEN)]}
SMALL_ONE = {"name": "small", "tokens": [digest(SMALL)], "models": ["fashion"], "highest_priority": 5}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    path = tmp_path / "tokens.yaml"
    write(path, VISION, SMALL_ONE | {"requests_per_s": 0.001, "requests_burst": 3, "items_per_s": 1, "items_burst": 8})
    async with open_world(auth={"tokens_file": path}) as opened:
        yield opened


def content(items: int = 1, **parameters: Any) -> dict[str, Any]:
    data = np.ones((items, 1, 2, 2)).tolist()
    tensor = {"name": "pixels", "shape": [items, 1, 2, 2], "datatype": "FP32", "data": data}
    return {"inputs": [tensor], "parameters": parameters}


class Client:
    """Both transports with one token, as a pair of status and message each."""

    def __init__(self, world: World, channel: Any, session: aiohttp.ClientSession, token: str | None) -> None:
        self.session = session
        self.channel = channel
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self.headers = dict(self.metadata)

    async def grpc(self, method: str, request: Any) -> tuple[str, Any]:
        try:
            call = self.channel.unary_unary(f"/{SERVICE}/{method}")
            return "OK", await call(request.SerializeToString(), metadata=self.metadata)
        except grpc.aio.AioRpcError as exc:
            return exc.code().name, exc.details()

    async def http(self, path: str, body: Any = None) -> tuple[int, str, Any]:
        method = "GET" if body is None else "POST"
        async with self.session.request(method, path, json=body, headers=self.headers) as response:
            return response.status, await response.text(), response.headers


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[Callable[[str | None], Client]]:
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel, aiohttp.ClientSession(world.http) as session:
        yield lambda token: Client(world, channel, session, token)


MakeClient = Callable[[str | None], Client]


async def test_who_has_a_token_is_answered(client: MakeClient) -> None:
    assert (await client(TOKEN).grpc("ModelInfer", item_request()))[0] == "OK"
    assert (await client(TOKEN).grpc("ModelInfer", echo_request()))[0] == "OK"
    assert (await client(TOKEN).http(INFER, content()))[0] == 200
    assert (await client(TOKEN).http("/v2"))[0] == 200


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x"])
async def test_who_has_none_gets_nothing_but_health(client: MakeClient, token: str | None) -> None:
    one = client(token)
    for method, request in (
        ("ModelInfer", item_request()),
        ("ModelInfer", echo_request()),
        ("ModelReady", pb.ModelReadyRequest(name="fashion")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
    ):
        status, detail = await one.grpc(method, request)
        assert status == "UNAUTHENTICATED"
        assert "Bearer TOKEN" in detail
    for path, body in (
        (INFER, content()),
        ("/v2/models/fashion/generate", {}),
        ("/v2/models/fashion/generate_stream", {}),
        ("/v2", None),
        ("/v2/models/fashion/ready", None),
        ("/v2/repository/index", {}),
        ("/v2/nothing", None),
        ("/", None),
    ):
        code, text, headers = await one.http(path, body)
        assert (code, headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert "Bearer TOKEN" in text
    stream = one.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=one.metadata)
    assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await one.grpc("ServerReady", pb.ServerReadyRequest()))[0] == "OK"
    assert (await one.http("/v2/health/ready"))[0] == 200
    assert await one.channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"


async def test_health_can_be_closed(tmp_path: Path) -> None:
    write(tmp_path / "t.yaml", VISION)
    auth = {"tokens_file": tmp_path / "t.yaml", "open_health": False}
    channel: Any
    async with (
        open_world(auth=auth) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
        aiohttp.ClientSession(world.http) as session,
    ):
        for token, status, code in ((None, "UNAUTHENTICATED", 401), (TOKEN, "OK", 200)):
            one = Client(world, channel, session, token)
            assert (await one.grpc("ServerReady", pb.ServerReadyRequest()))[0] == status
            assert (await one.http("/v2/health/live"))[0] == code
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_unknown_client_is_refused_before_its_body_has_come(world: World) -> None:
    reader, writer = await asyncio.open_connection(*world.http.removeprefix("http://").split(":"))
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()
    await writer.wait_closed()


async def test_a_tenants_models_are_all_it_can_use_and_see(client: MakeClient) -> None:
    small = client(SMALL)
    for method, request in (
        ("ModelInfer", echo_request()),
        ("ModelInfer", echo_request("made-up")),
        ("ModelConfig", pb.ModelConfigRequest(name="echo")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="echo")),
        ("ModelReady", pb.ModelReadyRequest(name="echo")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="echo")),
    ):
        status, detail = await small.grpc(method, request)
        assert status == "PERMISSION_DENIED", method
        assert "tenant 'small'" in detail
    for path, body in (
        ("/v2/models/echo/infer", {}),
        ("/v2/models/echo/generate", {}),
        ("/v2/models/echo/generate_stream", {}),
        ("/v2/models/echo/config", None),
        ("/v2/models/echo/ready", None),
        ("/v2/models/echo", None),
    ):
        assert (await small.http(path, body))[0] == 403, path
    _, answer = await small.grpc("RepositoryIndex", pb.RepositoryIndexRequest())
    assert [m.name for m in pb.RepositoryIndexResponse.FromString(answer).models] == ["fashion"]
    _, answer = await small.grpc("ModelStatistics", pb.ModelStatisticsRequest())
    assert [m.name for m in pb.ModelStatisticsResponse.FromString(answer).model_stats] == ["fashion"]
    assert [m["name"] for m in json.loads((await small.http("/v2/repository/index", {}))[1])] == ["fashion"]
    assert "echo" in (await client(TOKEN).http("/v2/repository/index", {}))[1]


async def test_over_quota_is_told_with_a_time_and_costs_nobody_else(client: MakeClient) -> None:
    small = client(SMALL)
    assert (await small.grpc("ModelInfer", item_request(items=5)))[0] == "OK"
    status, detail = await small.grpc("ModelInfer", item_request(items=5))
    assert (status, "items of tenant 'small' are above 1/s" in detail) == ("RESOURCE_EXHAUSTED", True)
    code, _, headers = await small.http(INFER, content(5))
    assert (code, int(headers["Retry-After"])) in ((429, 1), (429, 2))
    code, text, headers = await small.http(INFER, content())
    assert (code, "requests of tenant 'small' are above" in text) == (429, True)
    assert 900 < int(headers["Retry-After"]) <= 1000, "the real time, at a request in a thousand seconds"
    code, _, headers = await small.http("/v2/models/fashion/generate", {"pixels": [1, 1, 1, 1]})
    assert code == 429
    (answer,) = await RawCalls(small.channel).stream([item_request(id="s")], metadata=small.metadata)
    assert "requests of tenant 'small' are above" in answer.error_message
    assert answer.infer_response.id == "s"
    for _ in range(5):
        assert (await client(TOKEN).http(INFER, content(5)))[0] == 200


async def test_a_batch_beyond_any_burst_and_a_priority_too_high_are_forbidden(client: MakeClient) -> None:
    small = client(SMALL)
    assert (await small.grpc("ModelInfer", item_request(items=9)))[0] == "PERMISSION_DENIED"
    status, detail = await small.grpc("ModelInfer", item_request(parameters={"priority": 1}))
    assert (status, "give 5 or more" in detail) == ("PERMISSION_DENIED", True)
    assert (await small.http(INFER, content(priority=5)))[0] == 200


async def test_streams_that_are_passed_on_count_too(tmp_path: Path) -> None:
    write(tmp_path / "t.yaml", VISION | {"requests_per_s": 0.001, "requests_burst": 2, "concurrent_requests": 1})
    channel: Any
    async with (
        open_world(auth={"tokens_file": tmp_path / "t.yaml"}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        answers = await RawCalls(channel).stream([echo_request(id=str(n)) for n in range(4)], metadata=metadata)
        assert sum("above 0.001/s" in a.error_message for a in answers) == 2
        assert sum(not a.error_message for a in answers) == 4, "each of the other two is answered twice"
        with pytest.raises(grpc.aio.AioRpcError, match="above"):
            await channel.unary_unary(f"/{SERVICE}/ModelInfer")(echo_request().SerializeToString(), metadata=metadata)


async def test_a_stream_that_is_open_gets_nothing_more_once_its_token_is_dropped(tmp_path: Path) -> None:
    path, metadata = tmp_path / "t.yaml", (("authorization", f"Bearer {TOKEN}"),)
    write(path, VISION)
    channel: Any
    async with open_world(auth={"tokens_file": path}) as world, grpc.aio.insecure_channel(world.grpc) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=metadata)

        async def errors_of(request: Any, answers: int) -> list[str]:
            await stream.write(request.SerializeToString())
            read = [pb.ModelStreamInferResponse.FromString(await stream.read()) for _ in range(answers)]
            return [answer.error_message for answer in read]

        assert await errors_of(echo_request(), answers=2) == ["", ""]
        assert await errors_of(item_request(), answers=1) == [""]
        write(path, VISION | {"tokens": []})
        ready = channel.unary_unary(f"/{SERVICE}/ServerMetadata")
        with pytest.raises(grpc.aio.AioRpcError, match="the token is not known"):
            while True:
                await ready(b"", metadata=metadata)
        for request in (echo_request(), item_request()):
            assert await errors_of(request, answers=1) == ["the token is no longer known"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("ServerMetadata", "/v2"),
        ("ModelMetadata", "/v2/models/fashion"),
        ("ModelConfig", "/v2/models/fashion/config"),
        ("ModelStatistics", "/v2/models/fashion/stats"),
        ("RepositoryIndex", "/v2/repository/index"),
    ],
)
async def test_queries_come_under_a_tenants_quota_and_health_does_not(
    client: MakeClient, method: str, path: str
) -> None:
    small = client(SMALL)
    request = getattr(pb, f"{method}Request")(**({"name": "fashion"} if method.startswith("Model") else {}))
    body = {} if method == "RepositoryIndex" else None
    assert [(await small.grpc(method, request))[0] for _ in range(2)] == ["OK"] * 2
    assert (await small.http(path, body))[0] == 200
    assert (await small.grpc(method, request))[0] == "RESOURCE_EXHAUSTED"
    assert (await small.http(path, body))[0] == 429
    assert (await small.grpc("ModelReady", pb.ModelReadyRequest(name="fashion")))[0] == "OK"
    assert (await client(TOKEN).grpc(method, request))[0] == "OK"


async def test_places_of_clients_that_leave_come_back(tmp_path: Path) -> None:
    write(tmp_path / "t.yaml", VISION | {"concurrent_requests": 2})
    async with (
        open_world(auth={"tokens_file": tmp_path / "t.yaml"}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
        aiohttp.ClientSession(world.http) as session,
    ):
        one = Client(world, channel, session, TOKEN)
        host, port = world.http.removeprefix("http://").split(":")
        head = f"POST {INFER} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
        writers = []
        for _ in range(2):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode())
            writers.append(writer)
        while (await one.http(INFER, content()))[0] == 200:
            await asyncio.sleep(0)
        assert (await one.http(INFER, content()))[2]["Retry-After"] == "1"
        for writer in writers:
            writer.transport.abort()
        while (await one.http(INFER, content()))[0] == 429:
            await asyncio.sleep(0)
        assert (await one.http(INFER, content()))[0] == 200


async def test_a_token_reaches_no_triton_no_log_no_error_and_no_metric(
    world: World, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one = client(TOKEN)
    replies: list[Any] = [await one.grpc("ModelInfer", echo_request())]
    replies.append(await one.grpc("ModelConfig", pb.ModelConfigRequest(name="echo")))
    replies.append(await one.grpc("ModelInfer", item_request(parameters={"slim_typo": 1})))
    replies.append(await one.http("/v2/models/echo/infer", {"inputs": 5}))
    replies.append(await one.http(f"/v2/models/{'x' * 20}", None))
    await RawCalls(one.channel).stream([echo_request()], metadata=one.metadata)
    wrong = client(TOKEN + "-mistyped")
    replies.append(await wrong.grpc("ModelInfer", item_request()))
    replies.append(await wrong.http(INFER, content()))
    seen = [call for triton in world.tritons.values() for call in triton.seen]
    assert {"ModelInfer", "ModelConfig", "ModelStreamInfer"} <= {method for method, _, _ in seen}
    assert world.gateway.metrics is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{world.gateway.metrics.address}/metrics") as page,
    ):
        replies.append(await page.text())
    for text in (repr(seen), repr(replies), caplog.text, *(repr(r.__dict__) for r in caplog.records)):
        assert TOKEN not in text
        assert digest(TOKEN) not in text


async def test_requests_are_counted_by_tenant_and_only_by_those_there_are(world: World, client: MakeClient) -> None:
    await client(TOKEN).grpc("ModelInfer", item_request())
    await client(TOKEN).grpc("ModelInfer", echo_request("made-up"))
    await client(TOKEN).grpc("ModelInfer", echo_request("made-up", model_version="x"))
    await client(SMALL).grpc("ModelInfer", echo_request("made-up-too"))
    await client("made-up-token").http(INFER, content())
    assert world.gateway.metrics is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{world.gateway.metrics.address}/metrics") as page,
    ):
        text = await page.text()
    assert 'slim_gateway_tenant_requests_total{model="fashion",outcome="ok",tenant="vision"} 1.0' in text
    assert 'slim_gateway_tenant_requests_total{model="",outcome="forbidden",tenant="small"} 1.0' in text
    assert 'slim_gateway_tenant_requests_total{model="",outcome="invalid",tenant="vision"} 1.0' in text
    assert "slim_gateway_unauthenticated_total 1.0" in text
    assert "made-up" not in text


async def test_the_file_is_read_again_and_a_bad_one_is_not_taken(
    world: World, client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "tokens.yaml"
    one = client(TOKEN)
    path.write_text(f"tenants: [{{name: vision, tokens: [{TOKEN}]}}]")
    world.gateway.reload()
    assert "tenants: kept as before" in caplog.text
    assert TOKEN not in caplog.text
    assert (await one.http(INFER, content()))[0] == 200
    path.unlink()
    world.gateway.reload()
    assert (await one.http(INFER, content()))[0] == 200
    write(path, VISION | {"tokens": [digest("new")]})
    while (await one.http(INFER, content()))[0] == 200:  # by itself, within a second
        await asyncio.sleep(0.05)
    assert (await one.http(INFER, content()))[0] == 401
    assert (await client("new").http(INFER, content()))[0] == 200


async def test_a_grpc_call_of_an_unknown_client_is_refused_before_its_message(world: World) -> None:
    """Half a message must not be held for somebody who may not send it."""
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")()  # of which no message is ever sent
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        unknown = channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"")
        assert await unknown.code() is grpc.StatusCode.UNAUTHENTICATED
