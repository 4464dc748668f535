"""The HTTP transport, over a fake fleet; the data plane behind it is tested with the gRPC one."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
import zlib
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
import pytest
from yarl import URL

from orchestrator.errors import SlimError
from orchestrator.triton.errors import RefusedCallError
from tests.gateway.fakes import World, open_world

INFER = "/v2/models/fashion/infer"
LENGTH = "Inference-Header-Content-Length"


def content(mark: int = 1, *, binary: bool = False, **more: Any) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": "pixels", "shape": [1, 1, 2, 2], "datatype": "FP32"}
    if binary:
        tensor["parameters"] = {"binary_data_size": 16}
    else:
        tensor["data"] = [[[[mark, mark], [mark, mark]]]]
    return {"inputs": [tensor], **more}


def encoded(mark: int = 1, **more: Any) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(content(mark, binary=True, **more)).encode()
    return text + np.full(4, mark, np.float32).tobytes(), {LENGTH: str(len(text))}


async def test_a_request_in_json_is_answered_in_json(http: aiohttp.ClientSession) -> None:
    async with http.post(INFER, json=content(5, id="i", parameters={"slim_width": 75})) as response:
        found = await response.json()
    assert (response.status, found["id"], found["model_name"]) == (200, "i", "fashion")
    assert found["parameters"]["slim_width"] == 75
    output = found["outputs"][0]
    assert (output["name"], output["shape"], int(np.argmax(output["data"]))) == ("logits", [1, 10], 5)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
async def test_binary_tensors_both_ways_compressed_or_not(http: aiohttp.ClientSession, encoding: str | None) -> None:
    body, headers = encoded(6, parameters={"binary_data_output": True})
    if encoding is not None:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
        headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    async with http.post(INFER, data=body, headers=headers) as response:
        data = await response.read()
    assert response.status == 200
    assert response.headers.get("Content-Encoding") == encoding
    if encoding is not None:
        data = gzip.decompress(data) if encoding == "gzip" else zlib.decompress(data)
    length = int(response.headers[LENGTH])
    assert json.loads(data[:length])["outputs"][0]["parameters"] == {"binary_data_size": 40}
    assert np.frombuffer(data[length:], np.float32).argmax() == 6


async def test_a_small_body_that_grows_is_unpacked_beside_the_event_loop(http: aiohttp.ClientSession) -> None:
    large = json.dumps(content(6)).encode() + b" " * 2**20
    for body, status in ((large, 200), (large[:-1] + b"x", 400)):
        packed = gzip.compress(body)
        assert len(packed) < 4000
        async with http.post(INFER, data=packed, headers={"Content-Encoding": "gzip"}) as response:
            assert response.status == status, await response.text()
    assert any(thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def test_a_raw_body_is_the_tensor(http: aiohttp.ClientSession) -> None:
    async with http.post(INFER, data=np.full(4, 8, np.float32).tobytes(), headers={LENGTH: "0"}) as response:
        data = await response.read()
    assert np.frombuffer(data[int(response.headers[LENGTH]) :], np.float32).argmax() == 8


async def test_other_models_get_exactly_the_tensors(world: World, http: aiohttp.ClientSession) -> None:
    raw = bytes(range(8))
    text = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "BF16", "shape": [4], "parameters": {"binary_data_size": 8, "own": 1}}
            ],
            "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
            "parameters": {"sequence_id": "s", "custom": 1.5},
        }
    ).encode()
    async with http.post("/v2/models/echo/infer", data=text + raw, headers={LENGTH: str(len(text))}) as response:
        data = await response.read()
    assert data[int(response.headers[LENGTH]) :] == raw


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "/v2", 200, "slim-scheduler"),
        ("GET", "/v2/health/live", 200, ""),
        ("GET", "/v2/health/ready", 200, ""),
        ("GET", "/v2/models/fashion", 200, '"shape":[-1,1,2,2]'),
        ("GET", "/v2/models/fashion/versions/1", 200, '"name":"fashion"'),
        ("GET", "/v2/models/fashion/versions/9", 404, "version 9 is not found"),
        ("GET", "/v2/models/fashion/versions/x", 404, "Not Found"),
        ("POST", "/v2/models/fashion/versions/-1/infer", 404, "Not Found"),
        ("GET", f"/v2/models/fashion/versions/{2**63}", 400, "version string"),
        ("GET", "/v2/models/fashion/versions/9/stats", 400, "model version is not available for model 'fashion'"),
        ("GET", "/v2/models/nope/stats", 400, "requested model 'nope' is not available"),
        ("GET", "/v2/models/fashion/ready", 200, ""),
        ("GET", "/v2/models/fashion/versions/1/ready", 200, ""),
        ("GET", "/v2/models/nope/ready", 503, ""),
        ("GET", "/v2/models/fashion/config", 200, '"max_batch_size":32'),
        ("GET", "/v2/models/fashion/stats", 200, '"inference_count":0'),
        ("GET", "/v2/models/fashion/versions/1/stats", 200, '"inference_count":0'),
        ("GET", "/v2/models/stats", 200, '"name":"echo"'),
        ("GET", "/v2/models/echo", 200, '"name":"echo"'),
        ("GET", "/v2/models/%65cho", 200, '"name":"echo"'),
        ("GET", "/v2/models/nope", 404, "unknown model: 'nope'"),
        ("GET", "/v2/models/n%C3%A9e", 404, "unknown model: 'née'"),
        ("GET", "/v2/trace/setting", 200, "{}"),
        ("GET", "/v2/models/fashion/trace/setting", 200, "{}"),
        ("POST", "/v2/trace/setting", 200, "{}"),
        ("GET", "/v2/logging", 200, "{}"),
        ("POST", "/v2/repository/index", 200, '"name":"fashion"'),
        ("POST", "/v2/repository/models/echo/load", 403, "closed"),
        ("POST", "/v2/repository/models/echo/unload", 403, "closed"),
        ("GET", "/v2/systemsharedmemory/status", 200, "[]"),
        ("GET", "/v2/cudasharedmemory/region/r/status", 404, "Unable to find cuda"),
        ("POST", "/v2/systemsharedmemory/unregister", 200, ""),
        ("POST", "/v2/cudasharedmemory/region/r/unregister", 403, "closed"),
        ("POST", "/v2/systemsharedmemory/region/r/register", 403, "closed"),
        ("GET", "/v2/", 404, "Not Found"),
        ("GET", "/v2/models", 404, "Not Found"),
        ("GET", "/v2/models/fashion/nope", 404, "Not Found"),
        ("GET", "/v2/models/%FF", 404, "Not Found"),
        ("GET", "/v2/systemsharedmemory/a/b/c", 404, "Not Found"),
        ("GET", "/", 404, "Not Found"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("POST", "/v2/models/fashion", 405, "Method Not Allowed"),
        ("DELETE", "/v2/health/live", 405, "Method Not Allowed"),
    ],
)
async def test_each_route_answers_with_its_status_and_words(
    http: aiohttp.ClientSession, method: str, path: str, status: int, expected: str
) -> None:
    async with http.request(method, URL(path, encoded=True)) as response:
        text = await response.text()
    assert (response.status, expected in text) == (status, True), text


async def test_no_answer_tells_what_it_is_served_by(world: World, http: aiohttp.ClientSession) -> None:
    assert world.gateway.metrics is not None
    metrics = f"http://{world.gateway.metrics.address}"
    large = {"Cookie": "x" * 20_000}
    for address, path, headers in (
        (world.http, "/v2", {}),
        (world.http, "/nope", {}),
        (world.http, "/v2", large),
        (metrics, "/metrics", {}),
        (metrics, "/nope", {}),
        (metrics, "/metrics", large),
    ):
        async with http.get(address + path, headers=headers) as response:
            assert "Server" not in response.headers, (address, path)
    async with http.post("/v2/models/echo/generate_stream", json={"x": [1, 2]}) as response:
        assert "Server" not in response.headers
    reader, writer = await asyncio.open_connection(*world.http.removeprefix("http://").split(":"))
    writer.write(b"no HTTP\r\n\r\n")
    assert b"server:" not in (await reader.read()).lower()
    writer.close()


async def test_writes_of_settings_are_closed(http: aiohttp.ClientSession) -> None:
    for path in ("/v2/trace/setting", "/v2/models/fashion/trace/setting", "/v2/logging"):
        async with http.post(path, json={"trace_rate": "1"}) as response:
            assert response.status == 403


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"inputs":', {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"{}", {}, 400),
        (b"{}", {LENGTH: "99"}, 400),
        (b"{}", {LENGTH: "-1"}, 400),
        (b"{}", {LENGTH: "x"}, 400),
        (b"123", {LENGTH: "0"}, 400),
        (b"{}", {"Content-Encoding": "br"}, 501),
        (b"{}", {"Content-Encoding": "gzip"}, 400),
        (json.dumps(content(parameters={"slim_x": 1})).encode(), {}, 400),
        (json.dumps(content(parameters={"slim_width": -1})).encode(), {}, 400),
        (json.dumps(content(parameters={"slim_deadline_ms": float("nan")})).encode(), {}, 400),
        (b'{"inputs":[],"parameters":{"slim_width":1e999}}', {}, 400),
    ],
)
async def test_malformed_requests_are_the_clients_fault(
    http: aiohttp.ClientSession, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with http.post(INFER, data=body, headers=headers) as response:
        found = await response.json(content_type=None)
    assert response.status == status
    assert found["error"]
    async with http.post(INFER, json=content()) as response:
        assert response.status == 200


async def test_a_body_beyond_the_limit_is_refused_before_and_after_decompression() -> None:
    async with open_world(max_message_mib=0.01) as world, aiohttp.ClientSession(world.http) as http:
        async with http.post(INFER, data=bytes(20_000)) as response:
            assert response.status == 413
        async with http.post(INFER, data=gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"}) as response:
            assert response.status == 413

        async def chunks() -> Any:
            for _ in range(20):
                yield bytes(1000)

        async with http.post(INFER, data=chunks()) as response:
            assert response.status == 413


async def test_generate_takes_and_gives_plain_json(http: aiohttp.ClientSession) -> None:
    async with http.post("/v2/models/fashion/generate", json={"pixels": [3, 3, 3, 3], "slim_width": 25}) as response:
        found = await response.json()
    assert (found["model_name"], found["slim_width"], int(np.argmax(found["logits"]))) == ("fashion", 25, 3)
    async with http.post("/v2/models/echo/generate", json={"x": [1, 2], "id": "q"}) as response:
        assert await response.json() == {"id": "q", "model_name": "echo", "model_version": "1", "x": [1.0, 2.0]}
    for wrong in ({"x": [1, 2, 3]}, {"y": [1]}, {"id": 5}, {"x": ["a", "b"]}):
        async with http.post("/v2/models/echo/generate", json=wrong) as response:
            assert response.status == 400


@pytest.mark.parametrize(
    ("status", "told"), [("INTERNAL", 400), ("UNKNOWN", 400), ("UNAVAILABLE", 503), ("INVALID_ARGUMENT", 400)]
)
async def test_a_model_that_fails_is_400_of_generate_and_what_it_is_of_infer(
    world: World, http: aiohttp.ClientSession, status: str, told: int
) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    bodies: dict[str, Any] = {"generate": {"x": [1, 2]}, "infer": {"inputs": [tensor]}}
    for path, expected in (("generate", told), ("infer", 500 if status in ("INTERNAL", "UNKNOWN") else told)):
        for triton in world.tritons.values():
            triton.refusals[:] = [RefusedCallError(status, "the model broke off")]
        async with http.post(f"/v2/models/echo/{path}", json=bodies[path]) as response:
            assert (response.status, await response.text()) == (expected, FAILURE)


async def test_servers_are_not_asked_what_a_model_is_before_each_raw_request(
    world: World, http: aiohttp.ClientSession
) -> None:
    for _ in range(5):
        async with http.post("/v2/models/echo/infer", data=bytes(8), headers={LENGTH: "0"}) as response:
            assert response.status == 200
    calls = [call[0] for triton in world.tritons.values() for call in triton.seen if b"echo" in call[1]]
    started = len(world.tritons)  # each server was queried once when it was found
    assert (calls.count("ModelConfig"), calls.count("ModelMetadata")) == (started + 1, 1)


async def test_generate_stream_is_server_sent_events(http: aiohttp.ClientSession) -> None:
    async with http.post("/v2/models/echo/generate_stream", json={"x": [1, 2]}) as response:
        text = await response.text()
    assert response.content_type == "text/event-stream"
    assert text == 2 * 'data: {"model_name":"echo","model_version":"1","x":[1.0,2.0]}\n\n'
    async with http.post("/v2/models/fashion/generate_stream", json={"pixels": [2] * 4, "slim_x": 1}) as response:
        assert response.status == 400
        assert "slim_x" in await response.text()


RESPONSE, FAILURE = '{"model_name":"talk","model_version":"1","x":[1.0,2.0]}', '{"error":"the model broke off"}'


@pytest.mark.parametrize(
    ("script", "status", "expected"),
    [
        ("r", 200, RESPONSE),
        ("e", 400, FAILURE),
        *((script, 500, "generate expects model to produce exactly 1 response") for script in ("", "rr", "re", "er")),
    ],
)
async def test_generate_gives_the_one_response_of_a_decoupled_model(script: str, status: int, expected: str) -> None:
    async with open_world(others={"a": ("talk",)}) as world, aiohttp.ClientSession(world.http) as http:
        world.tritons["a"].scripts["talk"] = script
        async with http.post("/v2/models/talk/generate", json={"x": [1, 2]}) as response:
            assert (response.status, response.content_type) == (status, "application/json")
            assert expected in await response.text()
        assert [stream.is_abandoned for stream in world.tritons["a"].streams] == [True]


@pytest.mark.parametrize(("script", "status"), [("", 200), ("r", 200), ("rer", 200), ("e", 400), ("er", 400)])
async def test_errors_of_generate_stream_are_events_too(script: str, status: int) -> None:
    async with open_world(others={"a": ("talk",)}) as world, aiohttp.ClientSession(world.http) as http:
        world.tritons["a"].scripts["talk"] = script
        async with http.post("/v2/models/talk/generate_stream", json={"x": [1, 2]}) as response:
            assert (response.status, response.content_type) == (status, "text/event-stream")
            events = [f"data: {RESPONSE if step == 'r' else FAILURE}\n\n" for step in script]
            assert await response.text() == "".join(events)


async def test_generate_stream_of_a_family_that_has_no_room_is_429() -> None:
    async with open_world(router={"queue_limit": 1}) as world, aiohttp.ClientSession(world.http) as http:
        for server in world.servers.values():
            server.per_item_s = 0.2

        async def post() -> tuple[int, str | None, str]:
            async with http.post("/v2/models/fashion/generate_stream", json={"pixels": [2] * 4}) as response:
                return response.status, response.headers.get("Retry-After"), response.content_type

        outcomes = set(await asyncio.gather(*(post() for _ in range(30))))
    assert outcomes == {(200, None, "text/event-stream"), (429, "1", "application/json")}


async def test_a_full_queue_is_429_with_retry_after() -> None:
    async with open_world(router={"queue_limit": 1}) as world, aiohttp.ClientSession(world.http) as http:
        for server in world.servers.values():
            server.per_item_s = 0.2

        async def post() -> tuple[int, str | None]:
            async with http.post(INFER, json=content()) as response:
                return response.status, response.headers.get("Retry-After")

        outcomes = set(await asyncio.gather(*(post() for _ in range(30))))
    assert outcomes == {(200, None), (429, "1")}


async def test_readiness_is_503_without_servers(world: World, http: aiohttp.ClientSession) -> None:
    for name in ("a", "b"):
        world.servers[name].is_up = world.tritons[name].is_up = False

    async def status(path: str) -> int:
        async with http.get(f"/v2/health/{path}") as response:
            return response.status

    while await status("ready") != 503:
        await asyncio.sleep(0.01)
    assert await status("live") == 200


async def test_a_client_that_leaves_takes_its_request_along(world: World, http: aiohttp.ClientSession) -> None:
    async with world.busy():
        leaving = asyncio.create_task(http.post(INFER, json=content()).__aenter__())
        await world.until_asked()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    async with http.post(INFER, json=content(4)) as response:
        assert response.status == 200


async def test_closing_answers_what_is_in() -> None:
    async with open_world(drain_s=3600) as world, aiohttp.ClientSession(world.http) as http:

        async def post() -> int:
            async with http.post(INFER, json=content(6)) as response:
                return response.status

        async with http.get("/v2/health/live") as response:  # leaves a connection that waits for its next request
            assert response.status == 200
        async with world.busy():
            under_way = asyncio.create_task(post())
            await world.until_asked()
            closing = asyncio.create_task(world.gateway.__aexit__(None, None, None))
            await asyncio.sleep(0.05)
            assert not closing.done()
        assert await under_way == 200
        async with asyncio.timeout(60):  # idle connections are not waited for, or it would take an hour
            await closing
        with pytest.raises(aiohttp.ClientConnectionError):
            await post()


async def test_connections_that_are_kept_alive_are_told_to_close_by_their_next_answer() -> None:
    async with open_world() as world, aiohttp.ClientSession(world.http) as http:
        async with http.get("/v2/health/ready") as response:  # leaves a connection
            assert response.status == 200
            assert "Connection" not in response.headers
        closing = asyncio.create_task(world.gateway.__aexit__(None, None, None))
        await asyncio.sleep(0.1)  # as when the next request was on its way
        async with http.post(INFER, json=content(6)) as response:
            assert response.status == 200
            assert response.headers["Connection"] == "close"
        await closing


async def test_metrics_show_what_the_router_decides() -> None:
    # An attempt that a busy machine makes late is not repeated: its copy would still be in flight at the end.
    routing = {"queue_limit": 1, "in_flight_groups": 1, "max_attempts": 1}
    async with open_world(router=routing) as world, aiohttp.ClientSession(world.http) as http:

        async def post() -> None:
            async with http.post(INFER, json=content()):
                pass

        async with world.busy():
            posts = [asyncio.create_task(post()) for _ in range(30)]
            await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)  # it is refused: nobody answers yet
        await asyncio.gather(*posts)
        metrics = await read_metrics(world)
    refused = metrics['slim_gateway_requests_total{model="fashion",outcome="shed",server="",width=""}']
    sheds = {key: value for key, value in metrics.items() if key.startswith("slim_router_sheds_total{")}
    assert sheds['slim_router_sheds_total{reason="full"}'] > 0
    assert refused == sum(sheds.values()), "a busy machine may make some wait for too long"
    assert 0 < metrics["slim_router_policy_seconds_count"] <= 30
    assert 'slim_router_fallbacks_total{reason="raised"}' not in metrics
    batches = {key: value for key, value in metrics.items() if key.startswith("slim_router_groups_in_flight{")}
    assert batches
    assert not any(batches.values())


async def test_metrics_show_which_weights_are_not_the_familys(world: World) -> None:
    triton = world.tritons["b"]
    right = triton.widths["fashion_w025"]

    async def foreign() -> dict[str, float]:
        """Return the series once the server was asked again what it has."""
        calls = len(triton.seen)
        while [call[0] for call in triton.seen[calls:]].count("RepositoryIndex") < 2:
            await asyncio.sleep(0.02)
        return {k: v for k, v in (await read_metrics(world)).items() if k.startswith("slim_gateway_foreign_models")}

    assert await foreign() == {}
    triton.widths["fashion_w025"] = replace(right, sha256="others")
    assert await foreign() == {'slim_gateway_foreign_models{model="fashion_w025",server="b"}': 1.0}
    triton.widths["fashion_w025"] = right
    assert await foreign() == {}


async def test_metrics_show_what_waits() -> None:
    async with open_world(router={"in_flight_groups": 1, "probes": None}, drain_s=0) as world:
        for server in world.servers.values():
            server.per_item_s = 3600.0
        inferences = [asyncio.create_task(world.router.infer(np.ones((1, 2, 2), np.float32))) for _ in range(9)]
        while not world.router.inspect().backlog.items:  # what is in flight already waits no more
            await asyncio.sleep(0.01)
            inferences.append(asyncio.create_task(world.router.infer(np.ones((1, 2, 2), np.float32))))
        await asyncio.sleep(0.01)
        waiting = world.router.inspect().backlog.requests
        metrics = await read_metrics(world)
        assert metrics["slim_router_queue_requests"] == metrics["slim_router_queue_items"] == waiting > 0
        assert metrics["slim_router_queue_bytes"] == 16 * waiting
    assert all(isinstance(end, SlimError) for end in await asyncio.gather(*inferences, return_exceptions=True))


async def read_metrics(world: World) -> dict[str, float]:
    assert world.gateway.metrics is not None
    async with aiohttp.ClientSession() as plain, plain.get(f"http://{world.gateway.metrics.address}/metrics") as page:
        lines = [line for line in (await page.text()).splitlines() if not line.startswith("#")]
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_show_outcomes_widths_and_servers(world: World, http: aiohttp.ClientSession) -> None:
    for parameters in ({"slim_width": 25}, {"slim_width": 25}, {"slim_x": 1}):
        async with http.post(INFER, json=content(parameters=parameters)):
            pass
    async with http.post("/v2/models/made-up/infer", json={"inputs": []}) as response:
        assert response.status == 404
    assert world.gateway.metrics is not None
    async with aiohttp.ClientSession() as plain, plain.get(f"http://{world.gateway.metrics.address}/metrics") as page:
        text = await page.text()
    lines = text.splitlines()
    answered = [line for line in lines if line.startswith("slim_gateway_requests_total") and '="ok"' in line]
    assert sum(float(line.rpartition(" ")[2]) for line in answered) == 2
    assert all('model="fashion"' in line and 'width="25"' in line for line in answered)
    assert 'slim_gateway_requests_total{model="fashion",outcome="invalid",server="",width=""} 1.0' in lines
    assert 'slim_gateway_requests_total{model="",outcome="not_found",server="",width=""} 1.0' in lines
    assert "made-up" not in text
    for histogram, times in (("latency", 4), ("queue", 2), ("service", 2)):
        counts = [line for line in lines if line.startswith(f"slim_gateway_{histogram}_seconds_count")]
        assert sum(float(line.rpartition(" ")[2]) for line in counts) == times, histogram
    assert "slim_gateway_in_flight 0.0" in text
    time.sleep(0.05)
    lag = world.gateway.snapshot_metrics().values["slim_gateway_loop_lag_seconds"]
    assert 0.03 < lag[()][0] < 60
