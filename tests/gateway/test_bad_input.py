"""Wrong, lying and malicious bytes against a running gateway: the client's fault, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.tensors import count_elements
from orchestrator.gateway.protocol.wire import check_inference
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.dataplane.test_fuzz import damaged_requests
from tests.gateway.fakes import World, open_world
from tests.gateway.http.bad_http import LENGTH, PATHS, deep, framing_cases, get, infer_cases, post, speak

ECHO = "/v2/models/echo/infer"
TAKEN_BY_THE_FAKE = {
    "input unknown", "input without a name", "input too many", "input twice", "inputs none",
    "outputs unknown", "outputs without a name", "priority negative", "priority text", "timeout text",
    "triton_ parameter", "classification negative", "classification text", "datatype wrong",
    "raw of a wrong size",
}  # fmt: skip
"""The fake model knows no names and no parameters; test_real_bad_input asks a real one."""


def place(world: World) -> str:
    return world.http.removeprefix("http://")


async def require_good_answers(world: World) -> None:
    """Both transports and both kinds of models go on, and nothing is left of what came before."""
    good = json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}).encode()
    assert await speak(place(world), post(ECHO, good)) == 200
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        assert (await RawCalls(channel).infer(item_request())).outputs
    assert world.gateway.metrics is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{world.gateway.metrics.address}/metrics") as page,
    ):
        assert "slim_gateway_in_flight 0.0" in await page.text()


@pytest.fixture(autouse=True)
def no_surprises(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the gateway logs an error: nothing that a client sends is unexpected."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


async def test_wrong_inferences_are_the_clients_fault(world: World) -> None:
    for what, request in infer_cases(ECHO).items():
        if what not in TAKEN_BY_THE_FAKE:
            expected = 501 if what == "encoding unknown" else 400
            assert await speak(place(world), request) == expected, what
    await require_good_answers(world)


async def test_what_is_in_doubt_or_no_http_is_refused_and_the_connection_ended(world: World) -> None:
    for what, request in framing_cases(ECHO).items():
        reader, writer = await asyncio.open_connection(*place(world).split(":"))
        writer.write(request + get("/v2/health/live"))
        answer = b""
        # The end may be a reset, because what follows is never read; the answer came before it all the same.
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(2**16):
                answer += more
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), f"{what}: {answer!r}"
        assert answer.count(b"HTTP/1.") == 1, f"{what}: what follows must not be taken for a request"
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await require_good_answers(world)


async def test_paths_at_which_nothing_is_are_refused_and_no_server_is_queried(world: World) -> None:
    before = {name: len(triton.seen) for name, triton in world.tritons.items()}
    for path in PATHS:
        assert await speak(place(world), get(path.replace("M", "echo"))) in (400, 404), path
    for name, triton in world.tritons.items():
        calls = [(method, message) for method, message, _ in triton.seen[before[name] :]]
        discovery = [call for call in calls if call[0] == "ModelConfig" and b"fashion_w" in call[1]]
        queried = {method for method, message in calls if (method, message) not in discovery}
        assert queried <= {"RepositoryIndex"}, "no server is queried for what nobody has"
    assert await speak(place(world), get("http://any/v2/models/echo")) == 200, "as to a proxy"


async def test_what_is_no_http_is_quoted_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Broken bytes may hold a token."""
    caplog.set_level(logging.DEBUG)
    for broken in (b"Bearer s3cret\0", b"Bearer s3cret\r\n folded", b"Bearer s3cret" + b"y" * 20_000):
        reader, writer = await asyncio.open_connection(*place(world).split(":"))
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\nAuthorization: " + broken + b"\r\n\r\n")
        answer = await reader.readuntil(b"}")
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert b"s3cret" not in answer
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    assert "was no HTTP" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_body_whose_framing_breaks_midway_is_the_clients_fault() -> None:
    async with open_world(limits={"stall_timeout_s": 0.2}) as world:
        reader, writer = await asyncio.open_connection(*place(world).split(":"))
        head = f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode() + b"5\r\nhello\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        status = (await reader.readline()).split()[1]
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert status in (b"400", b"408")


async def test_deep_json_is_refused_wherever_json_is_taken(world: World) -> None:
    for levels in (500, 950, 1000, 80_000):
        for path in (ECHO, "/v2/models/echo/generate", "/v2/repository/index", "/v2/logging"):
            for body in (deep(levels), b'{"x":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"):
                assert await speak(place(world), post(path, body)) in (200, 400, 403), (path, levels)
    await require_good_answers(world)


def test_sides_that_overflow_are_noticed_without_multiplying_them_all() -> None:
    with pytest.raises(ConfigError, match="exceed maximum size of INT64"):
        count_elements([2**62] * 10**6)
    assert count_elements([2**31, 2**31]) == 2**62
    assert count_elements([]) == 1


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_no_overflowing_shape_is_passed_on(shape: list[int]) -> None:
    request = echo_request()
    request.inputs[0].shape[:] = shape
    count, overflows = 1, False
    for side in shape:
        count *= max(0, side)
        overflows = overflows or count >= 2**63
    with pytest.raises(ConfigError) if overflows else contextlib.nullcontext():
        check_inference(request.SerializeToString())


async def test_a_lying_shape_reaches_no_server_over_grpc_either(world: World) -> None:
    request = echo_request()
    request.inputs[0].shape[:] = [2**62, 4]
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        calls = RawCalls(channel)
        assert (await calls.refused("ModelInfer", request))[0] == "INVALID_ARGUMENT"
        (answer,) = await calls.stream([request])
        assert "exceed maximum size of INT64" in answer.error_message
    seen = {method for triton in world.tritons.values() for method, _, _ in triton.seen}
    assert not seen & {"ModelInfer", "ModelStreamInfer"}


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
KEYS = (
    "id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "binary_data",
    "slim_width", "slim_deadline_ms", "priority", "timeout", "triton_x", "classification",
)  # fmt: skip


@st.composite
def damaged_bodies(draw: st.DrawFn) -> bytes:
    """An inference in which some places hold something else."""
    tensor: dict[str, Any] = {"name": "pixels", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    output: dict[str, Any] = {"name": "logits"}
    content: dict[str, Any] = {"inputs": [tensor], "outputs": [output], "parameters": {}}
    places = (content, tensor, output, content["parameters"])
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(places))[draw(st.sampled_from(KEYS))] = draw(json_values)
    body = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.integers(0, 2))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


def http_requests() -> st.SearchStrategy[bytes]:
    headers = st.fixed_dictionaries({}, optional={LENGTH: st.integers(-5, 300), "Content-Encoding": st.just("gzip")})
    paths = st.sampled_from(["/v2/models/fashion/infer", ECHO, "/v2/models/fashion/generate", "/v2/repository/index"])
    built = st.builds(
        lambda path, body, more: post(path, body, **{k.replace("-", "_"): v for k, v in more.items()}),
        paths, damaged_bodies(), headers,
    )  # fmt: skip
    of_bytes = st.binary(max_size=20).map(lambda b: b"GET /v2/models/" + b + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    return st.one_of(built, of_bytes, st.binary(max_size=60).map(lambda b: b + b"\r\n\r\n"))


def test_no_generated_request_is_more_than_refused() -> None:
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        limits = {"header_timeout_s": 0.2, "idle_timeout_s": 1}
        world = runner.run(stack.enter_async_context(open_world(limits=limits)))

        @given(http_requests())
        @settings(max_examples=200, deadline=None)
        def over_http(request: bytes) -> None:
            status = runner.run(speak(place(world), request))
            assert status is None or status < 500 or status == 501, status

        async def call(method: str, message: bytes) -> grpc.StatusCode:
            channel: Any
            async with grpc.aio.insecure_channel(world.grpc) as channel:
                made = channel.unary_unary(f"/{SERVICE}/{method}")(message)
                code: grpc.StatusCode = await made.code()
                assert "the gateway failed" not in (await made.details() or "")
            return code

        methods = ("ModelInfer", "ModelConfig", "ModelReady", "ModelStatistics", "RepositoryIndex", "TraceSetting")

        @given(st.sampled_from(methods), st.one_of(damaged_requests(), st.binary(max_size=40)))
        @settings(max_examples=100, deadline=None)
        def over_grpc(method: str, message: bytes) -> None:
            code = runner.run(call(method, message))
            assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)

        try:
            over_http()
            over_grpc()
            runner.run(require_good_answers(world))
        finally:
            runner.run(stack.aclose())
