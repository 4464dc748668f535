"""tritonclient's four clients at ``slimsched gateway``: every call they have, held against the same at a Triton."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import queue
import types
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from tests.gateway.client_calls import (
    ASKED,
    EVERY,
    FAMILY,
    INFERENCES,
    OF_FAMILY,
    WIDTH,
    Call,
    Inference,
    answer,
    plain,
)
from tests.gateway.running import ROOT, Addresses, images

# gevent's and geventhttpclient's own warnings
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

KINDS = ("grpc", "grpc.aio", "http", "http.aio")


def module_of(kind: str) -> types.ModuleType:
    return importlib.import_module(f"tritonclient.{kind}")


@asynccontextmanager
async def client_of(kind: str, addresses: Addresses) -> AsyncIterator[Any]:
    client = module_of(kind).InferenceServerClient(addresses.grpc if "grpc" in kind else addresses.http)
    try:
        yield client
    finally:
        found = client.close()
        if inspect.isawaitable(found):
            await found


@asynccontextmanager
async def both(kind: str, gateway: Addresses, direct: Addresses) -> AsyncIterator[tuple[Any, Any]]:
    async with client_of(kind, gateway) as ours, client_of(kind, direct) as theirs:
        yield ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_is_left_out(kind: str) -> None:
    public = {name for name in dir(module_of(kind).InferenceServerClient) if not name.startswith("_")}
    assert public <= EVERY


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_asked_is_answered_as_by_triton(gateway: Addresses, direct: Addresses, kind: str) -> None:
    async with both(kind, gateway, direct) as (ours, theirs):
        for client in (ours, theirs):  # so that there are statistics
            found = client.infer(**INFERENCES["two items"].arguments(module_of(kind), is_ours=True))
            await found if inspect.isawaitable(found) else found
        differing = {}
        for call in ASKED:
            mine = await answer(ours, call, is_json="grpc" in kind)
            if call.is_closed:
                assert mine[0] == "failed", str(call)
                assert mine[1] == ("StatusCode.PERMISSION_DENIED" if "grpc" in kind else "403"), str(call)
                assert "closed; see docs" in mine[2], str(call)
                continue
            other = await answer(theirs, call, is_json="grpc" in kind)
            if not (mine == other if call.check is None else call.check(mine, other)):
                differing[str(call)] = (mine, other)
        assert not differing


@pytest.mark.parametrize("kind", KINDS)
async def test_a_family_describes_itself_as_its_widest_model(gateway: Addresses, direct: Addresses, kind: str) -> None:
    async with both(kind, gateway, direct) as (ours, theirs):
        assert await answer(ours, Call("is_model_ready", (FAMILY,)), is_json=False) is True
        for method, check in OF_FAMILY.items():
            mine = await answer(ours, Call(method, (FAMILY,)), is_json="grpc" in kind)
            other = await answer(theirs, Call(method, (WIDTH,)), is_json="grpc" in kind)
            assert check(mine, other), f"{method}: {mine}, and Triton {other}"


async def infer(kind: str, client: Any, what: Inference, *, is_ours: bool, method: str = "infer") -> Any:
    """Return what an inference gives, plain, whichever way a client gives it."""
    arguments = what.arguments(module_of(kind), is_ours=is_ours)
    try:
        if method == "async_infer" and kind == "grpc":
            found: queue.Queue[Any] = queue.Queue()
            client.async_infer(callback=lambda result, error: found.put(error or result), **arguments)
            result = await asyncio.to_thread(found.get, timeout=20)
            if isinstance(result, Exception):
                raise result
        else:
            result = getattr(client, method)(**arguments)
            if method == "async_infer":
                result = result.get_result()
            elif inspect.isawaitable(result):
                result = await result
    except InferenceServerException as exc:
        return ("failed", exc.status(), exc.message())
    return plain(result)


@pytest.mark.parametrize("method", ["infer", "async_infer"])
@pytest.mark.parametrize("kind", KINDS)
async def test_inferences_give_what_triton_gives(gateway: Addresses, direct: Addresses, kind: str, method: str) -> None:
    if not hasattr(module_of(kind).InferenceServerClient, method):
        method = "infer"  # its infer is asynchronous itself
    async with both(kind, gateway, direct) as (ours, theirs):
        differing = {}
        for name, what in INFERENCES.items():
            mine = await infer(kind, ours, what, is_ours=True, method=method)
            other = await infer(kind, theirs, what, is_ours=False, method=method)
            if mine != other:
                differing[name] = (mine, other)
        assert not differing


STREAMED = ("two items", "BYTES", "one width by name", "a width of the family", "no such model", "a wrong shape")


async def streamed(kind: str, client: Any, *, is_ours: bool) -> dict[str, Any]:
    """Return the answers of one stream by the request's id."""
    module = module_of(kind)
    requests = []
    for name in STREAMED:
        requests.append({**INFERENCES[name].arguments(module, is_ours=is_ours), "request_id": name})
    found = []
    if kind == "grpc":
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
        for request in requests:
            client.async_stream_infer(**request)
        found = [answers.get(timeout=20) for _ in requests]
        client.stop_stream()
    else:

        async def sent() -> AsyncIterator[Any]:
            for request in requests:
                yield request

        found = [pair async for pair in client.stream_infer(sent(), compression_algorithm="gzip")]
    results = {"failures": sorted(str(error) for _, error in found if error is not None)}
    results.update({result.get_response().id: plain(result) for result, error in found if error is None})
    return results


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
async def test_streams_give_what_triton_gives(gateway: Addresses, direct: Addresses, kind: str) -> None:
    async with both(kind, gateway, direct) as (ours, theirs):
        mine = await streamed(kind, ours, is_ours=True)
        assert len(mine) == len(STREAMED) - 1, "two fail"
        assert mine == await streamed(kind, theirs, is_ours=False)


@pytest.mark.parametrize("kind", ["http", "http.aio"])
async def test_bodies_made_and_read_without_a_client(gateway: Addresses, direct: Addresses, kind: str) -> None:
    client = module_of(kind).InferenceServerClient
    answers = []
    for addresses in (gateway, direct):
        arguments = INFERENCES["two items"].arguments(module_of(kind), is_ours=True)
        body, header_bytes = client.generate_request_body(arguments["inputs"])
        request = urllib.request.Request(
            f"http://{addresses.http}/v2/models/plus/infer",
            data=body,
            headers={"Inference-Header-Content-Length": str(header_bytes)},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            length = response.headers["Inference-Header-Content-Length"]
            answers.append(plain(client.parse_response_body(response.read(), header_length=int(length))))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plugin_adds_headers_to_calls(gateway: Addresses, kind: str) -> None:
    plugins = importlib.import_module(f"tritonclient.{kind}.auth")
    async with client_of(kind, gateway) as client:
        plugin = plugins.BasicAuth("user", "word")
        client.register_plugin(plugin)
        assert client.plugin() is plugin
        assert await answer(client, Call("is_model_ready", (FAMILY,)), is_json=False) is True
        client.unregister_plugin()
        assert client.plugin() is None


@pytest.mark.parametrize("kind", KINDS)
async def test_many_requests_of_one_client_are_each_answered(gateway: Addresses, kind: str) -> None:
    """Forty at once where the client can; each gets its own answer."""
    module = module_of(kind)
    async with client_of(kind, gateway) as client:
        one = {"model_name": "plus"}
        numbers = range(40)
        requests = [{**one, **_numbered(module, number)} for number in numbers]
        if kind.endswith("aio"):
            results = await asyncio.gather(*(client.infer(**request) for request in requests))
        elif kind == "http":
            results = [pending.get_result() for pending in [client.async_infer(**request) for request in requests]]
        else:
            results = [client.infer(**request) for request in requests]
        assert [int(result.as_numpy("y")[0, 0]) - 1 for result in results] == list(numbers)


def _numbered(module: types.ModuleType, number: int) -> dict[str, Any]:
    tensor = module.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(images(1).reshape(-1)[:4].reshape(1, 4) * 0 + number)
    return {"inputs": [tensor]}


@pytest.mark.parametrize("kind", ["grpc.aio", "http.aio"])
async def test_what_is_asked_of_the_family_is_obeyed(gateway: Addresses, kind: str) -> None:
    module = module_of(kind)
    async with client_of(kind, gateway) as client:
        wanted = {"slim_deadline_ms": 5000, "slim_min_accuracy": 0.935}  # which 50 % has not
        what = Inference(FAMILY, {"pixels": images(1)}, more={"parameters": wanted})
        results = await asyncio.gather(*(client.infer(**what.arguments(module, is_ours=True)) for _ in range(20)))
        for result in results:
            found = result.get_response()
            width = found["parameters"]["slim_width"] if isinstance(found, dict) else found.parameters["slim_width"]
            assert getattr(width, "int64_param", width) in (75, 100)
        for name, value in (("slim_width", 33), ("slim_deadline_ms", -1), ("slim_typo", 1)):
            bad = Inference(FAMILY, {"pixels": images(1)}, more={"parameters": {name: value}})
            with pytest.raises(InferenceServerException, match=name.replace("slim_width", "width=33")) as caught:
                await client.infer(**bad.arguments(module, is_ours=True))
            assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [FAMILY, WIDTH])
async def test_clients_for_images_learn_how_pixels_are_ordered(gateway: Addresses, kind: str, model: str) -> None:
    async with client_of(kind, gateway) as client:
        config = await answer(client, Call("get_model_config", (model,)), is_json="grpc" in kind)
    assert config.get("config", config)["input"][0]["format"] == "FORMAT_NCHW"


def test_the_page_tells_what_differs() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    section = page[page.index("\n## Clients") :]
    for call in ASKED:
        if call.is_closed or call.check is not None:
            assert f"`{call.method}`" in section, f"docs/gateway.md must say how {call.method} differs from Triton"
