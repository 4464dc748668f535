"""What a client can make of few bytes: refused before it is built, or built beside the event loop."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import ClientLimitSettings
from orchestrator.errors import CapacityError, ConfigError
from orchestrator.gateway.http.body import MAX_VALUES, Body, BodyReader, decompress
from orchestrator.gateway.http.codec import OutputForms, parse_infer, render_generate, render_infer
from orchestrator.gateway.http.connection import HttpConnection
from orchestrator.gateway.http.errors import StalledError, TooLargeError
from orchestrator.gateway.http.json_text import QUICK_BYTES, count_values, dump_json, dump_texts, load_json
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.tensors import from_json
from orchestrator.http2.flow import Buffer
from orchestrator.triton.infer_wire import encode_elements
from tests.gateway.fakes import World, open_world
from tests.gateway.protocol.strategies import Tensor, tensors
from tests.gateway.protocol.test_tensors import values_of

INFER = "/v2/models/echo/infer"
GENERATE = "/v2/models/echo/generate"
INDEX = "/v2/repository/index"
BINARY_WANTED = {"binary_data_output": True}
PADDING = b" " * QUICK_BYTES


def of_data(item: str, count: int, *, datatype: str = "FP32", shape: str = "[2]") -> str:
    data = ",".join([item] * count)
    return f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":[{data}]}}]}}'


def of_parameters(count: int) -> str:
    return '{"inputs":[],"parameters":{' + ",".join(f'"{number:x}":1' for number in range(count)) + "}}"


def in_each_input(count: int) -> str:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1], "parameters": dict.fromkeys("abc", 1)}
    return json.dumps({"inputs": [tensor] * count})


TOO_MUCH_JSON = (413, "the body is larger than 16777216 bytes; send tensors as binary data")
TOO_MANY_VALUES = (413, f"the request's JSON holds more than {MAX_VALUES} values; send tensors as binary data")


def attacks() -> Iterator[tuple[str, str, str, tuple[int, str]]]:
    yield "zeros", INFER, of_data("0", 13_000_000), TOO_MUCH_JSON
    yield "fewer zeros", INFER, of_data("0", 300_000), TOO_MANY_VALUES
    yield "zeros to generate", GENERATE, '{"x":[' + "0," * 300_000 + "0]}", TOO_MANY_VALUES
    yield "objects for inputs", INFER, '{"inputs":[' + "{}," * 9_000_000 + "{}]}", TOO_MUCH_JSON
    yield "fewer objects for inputs", INFER, '{"inputs":[' + "{}," * 2_000 + "{}]}", (400, "'inputs': there are 2001")
    outputs = '{"inputs":[],"outputs":[' + "{}," * 2_000 + "{}]}"
    yield "objects for outputs", INFER, outputs, (400, "'outputs': there are 2001")
    index = '{"inputs":[' + "{}," * 400_000 + "{}]}"
    yield "objects to the index", INDEX, index, (413, "the body is larger than 1048576 bytes")
    yield "settings", "/v2/logging", " " * 2**20 + "{}", (413, "the body is larger than 1048576 bytes")
    yield "sides", INFER, of_data("0", 1, shape="[" + "1," * 13_000_000 + "1]"), TOO_MUCH_JSON
    yield "fewer sides", INFER, of_data("0", 1, shape="[" + "1," * 64 + "1]"), (400, "65 sides, at most 64 are taken")
    yield "strings", INFER, of_data('"a"', 7_000_000, datatype="BYTES"), TOO_MUCH_JSON
    yield "fewer strings", INFER, of_data('"a"', 300_000, datatype="BYTES"), TOO_MANY_VALUES
    yield "parameters", INFER, of_parameters(300_000), TOO_MANY_VALUES
    yield "many parameters", INFER, of_parameters(80_000), (400, "there are 80000 of them")
    yield "fewer parameters", INFER, of_parameters(3_000), (400, "'parameters': there are 3000 of them, at most 2048")
    yield "parameters of inputs", INFER, in_each_input(1_000), (400, "'parameters': there are 3000 of them")
    generated = '{"parameters":' + json.dumps({str(number): 1 for number in range(3_000)}) + "}"
    yield "parameters to generate", GENERATE, generated, (400, "'parameters': there are 3001 of them")


@pytest.mark.parametrize("is_packed", [True, False], ids=["gzip", "plain"])
async def test_more_than_any_model_has_is_refused(http: aiohttp.ClientSession, is_packed: bool) -> None:
    for what, path, text, (status, reason) in attacks():
        body = gzip.compress(text.encode(), 1) if is_packed else text.encode()
        headers = {"Content-Encoding": "gzip"} if is_packed else {}
        try:
            async with http.post(path, data=io.BytesIO(body), headers=headers) as response:
                found = await response.json()
        except aiohttp.ClientConnectionError:  # refused by its announced length, before it was sent
            assert not is_packed, what
            continue
        assert (response.status, reason in found["error"]) == (status, True), (what, found)
    async with http.post(GENERATE, json={"x": [1, 2]}) as response:
        assert response.status == 200


async def test_json_before_binary_data_is_bounded_as_all_json_is(http: aiohttp.ClientSession) -> None:
    body = b" " * (16 * 2**20 + 1) + bytes(8)
    async with http.post(
        INFER, data=io.BytesIO(body), headers={"Inference-Header-Content-Length": str(len(body) - 8)}
    ) as response:
        assert response.status == 413
        assert "JSON of the request is larger" in await response.text()


async def test_an_error_that_quotes_a_long_name_is_cut(http: aiohttp.ClientSession) -> None:
    tensor = {"name": "x" * 10**6, "datatype": "FP33", "shape": [1], "data": [1]}
    async with http.post(INFER, json={"inputs": [tensor]}) as response:
        found = await response.json()
    assert response.status == 400
    assert found["error"].startswith("invalid datatype for input xxx")
    assert len(found["error"]) < 5000


async def test_large_json_is_parsed_beside_the_event_loop(http: aiohttp.ClientSession) -> None:
    values = [random.Random(1).uniform(-1, 1) for _ in range(70_000)]
    tensor = {"name": "x", "datatype": "FP64", "shape": [70_000], "data": values}
    async with http.post(INFER, data=io.BytesIO(json.dumps({"inputs": [tensor]}).encode())) as response:
        assert (await response.json())["outputs"][0]["data"] == values
    async with http.post(GENERATE, data=json.dumps({"x": [1.5, 2]}).encode() + PADDING) as response:
        assert (await response.json())["x"] == [1.5, 2]
    async with http.post(INDEX, data=b'{"ready":true}' + PADDING) as response:
        assert response.status == 200
    assert any(thread.name.startswith("http-json") for thread in threading.enumerate())


async def test_the_thread_that_parses_ends_with_its_server() -> None:
    def parsing() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("http-json")}

    before = parsing()
    async with open_world() as world, aiohttp.ClientSession(world.http) as http:
        async with http.post(GENERATE, data=b'{"x":[1,2]}' + PADDING) as response:
            assert response.status == 200
        (own,) = parsing() - before
    own.join(10)
    assert not own.is_alive()


async def test_the_event_loop_runs_while_something_large_is_built() -> None:
    may_end = threading.Event()
    reader = BodyReader(ClientLimitSettings(), max_bytes=2**20)
    request: Any = None  # nothing of it is read
    with reader.open(request) as body:
        building = asyncio.create_task(body.parse(lambda: may_end.wait(60), PADDING + b"{}"))
        await asyncio.sleep(0)
        may_end.set()
        assert await building
        loop_thread = threading.get_ident()
        assert await body.parse(threading.get_ident, b"{}") == loop_thread, "what is small costs no change of threads"


async def test_too_many_values_are_noticed_before_any_is_built() -> None:
    reader = BodyReader(ClientLimitSettings(), max_bytes=2**20)
    request: Any = None
    with reader.open(request) as body, pytest.raises(TooLargeError):
        await body.parse(lambda: pytest.fail("it was built"), b"," * (MAX_VALUES + 1))


def test_an_image_of_imagenets_size_has_no_more_values_than_are_taken() -> None:
    for shape in ((150_528,), (1, 3, 224, 224), (1, 224, 224, 3)):
        text = json.dumps(
            {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": np.zeros(shape).tolist()}]}
        )
        assert count_values(text.encode(), MAX_VALUES) <= MAX_VALUES


async def test_what_a_body_grows_to_is_counted_beside_what_came() -> None:
    limits = {"max_held_mib": 2}
    async with open_world(max_message_mib=2, limits=limits) as world, aiohttp.ClientSession(world.http) as http:

        async def send(size: int) -> int:
            noise = np.random.default_rng(1).bytes(size)  # which takes as much packed as unpacked
            tensor = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
            text = json.dumps({"inputs": [tensor], "parameters": BINARY_WANTED}).encode()
            headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(text))}
            async with http.post(INFER, data=io.BytesIO(gzip.compress(text + noise)), headers=headers) as response:
                return response.status

        for _ in range(4):
            assert await send(1_500_000) == 429
            assert await send(900_000) == 200, "what was parsed counts no more"


async def test_of_many_small_bodies_that_grow_few_do_at_a_time() -> None:
    limits = {"max_held_mib": 16}  # four of two, and of thirty the first quarter
    async with open_world(max_message_mib=2, limits=limits) as world, aiohttp.ClientSession(world.http) as http:

        async def send(body: bytes) -> int:
            async with http.post(GENERATE, data=gzip.compress(body), headers={"Content-Encoding": "gzip"}) as response:
                return response.status

        good = b'{"x":[1,2]}' + b" " * 2_000_000
        bodies = [good, good[:-1] + b"x", good + b" " * 200_000] * 10
        assert await asyncio.gather(*map(send, bodies)) == [200, 400, 413] * 10


async def test_large_binary_data_arrives_as_it_was(world: World, http: aiohttp.ClientSession) -> None:
    raw = np.random.default_rng(1).bytes(2**23)
    tensor = {"name": "x", "datatype": "UINT8", "shape": [len(raw)], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor], "parameters": BINARY_WANTED}).encode()
    for body, more in ((text + raw, {}), (gzip.compress(text + raw, 1), {"Content-Encoding": "gzip"})):
        headers = {"Inference-Header-Content-Length": str(len(text)), **more}
        async with http.post(INFER, data=io.BytesIO(body), headers=headers) as response:
            answer = await response.read()
            assert answer[int(response.headers["Inference-Header-Content-Length"]) :] == raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_large_json_is_read_as_small_json_is(content: dict[str, Any], is_ascii: bool) -> None:
    text = json.dumps(content, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    try:
        found = load_json(text)
    except ConfigError:
        with pytest.raises(ConfigError):
            load_json(text + PADDING)
        return
    assert load_json(text + PADDING) == found == content


@pytest.mark.parametrize("text", ['{"a":NaN}', '{"a":-Infinity}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":1,"a":2}'])
def test_large_json_may_hold_what_only_python_takes(text: str) -> None:
    assert repr(load_json(text.encode() + PADDING)) == repr(json.loads(text))


def test_what_no_quick_parser_takes_is_refused_when_python_would_parse_it_for_long() -> None:
    for count, is_taken in ((60_000, True), (70_000, False)):
        text = of_data("NaN", count, shape=f"[{count}]").encode()
        if is_taken:
            assert np.isnan(np.frombuffer(parse_infer("m", "", text, b"").raws[0], "<f4")).all()
        else:
            with pytest.raises(ConfigError, match="failed to parse the request JSON buffer"):
                parse_infer("m", "", text, b"")
    long_number = b'{"a":' + b"9" * 4300 + b"}"
    assert load_json(long_number + PADDING) == {"a": int("9" * 4300)}
    with pytest.raises(ConfigError, match="failed to parse the request JSON buffer"):
        load_json(long_number + b" " * 2**21)


@given(st.lists(st.text()))
def test_texts_are_written_as_all_json_is(texts: list[str]) -> None:
    assert dump_texts(texts) == dump_json(texts)


@given(JSON)
def test_no_json_holds_more_values_than_are_counted(content: object) -> None:
    def size(value: object) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(size, inner))

    text = json.dumps(content).encode()
    assert size(content) <= count_values(text, len(text))


@given(tensors(json_only=True), st.integers(1, 3))
def test_values_converted_in_steps_are_those_converted_at_once(tensor: Tensor, copies: int) -> None:
    values = values_of(tensor)
    times = copies * 2**16 // max(1, len(values))
    if tensor.datatype == "BYTES" or len(values) < 50:
        times = min(times, 50)
    whole = from_json("t", tensor.datatype, [len(values) * times], values * times)
    assert whole == from_json("t", tensor.datatype, tensor.shape, values) * times


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES", "BOOL"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_each_of_many_values_is_checked(datatype: str, is_nested: bool) -> None:
    good: Any = {"FP32": 0.5, "INT64": 2**62, "BYTES": "é", "BOOL": True}[datatype]
    values = [good] * 150_000
    data = [values] if is_nested else values
    one = from_json("x", datatype, [1], [good])
    assert from_json("x", datatype, [150_000], data) == one * 150_000
    values[-1] = None
    with pytest.raises(ConfigError):
        from_json("x", datatype, [150_000], data)


async def test_large_answers_are_rendered_beside_the_event_loop_and_the_largest_not_as_json(
    http: aiohttp.ClientSession,
) -> None:
    for size, status in ((16 * 2**20, 200), (16 * 2**20 + 1, 400)):
        for wanted in ({}, BINARY_WANTED):
            tensor = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
            text = json.dumps({"inputs": [tensor], "parameters": wanted}).encode()
            headers = {"Inference-Header-Content-Length": str(len(text))}
            async with http.post(INFER, data=io.BytesIO(text + bytes(size)), headers=headers) as response:
                assert response.status == (200 if wanted else status)
                if response.status != 200:
                    assert "sent as JSON; ask for binary_data" in await response.text()


@pytest.mark.parametrize("count", [0, 1, 2, 40_000])
def test_answers_are_the_json_of_all_their_values(count: int) -> None:
    values = np.random.default_rng(1).standard_normal(count).tolist()
    texts = ["é\n"] * count
    response = pb.ModelInferResponse(model_name="m", model_version="1", id="i")
    raws: list[Buffer] = []
    for name, datatype, raw in (
        ("a", "FP64", np.array(values).tobytes()),
        ("id", "BYTES", encode_elements([text.encode() for text in texts])),
    ):
        response.outputs.add(name=name, datatype=datatype, shape=[count])
        raws.append(raw)
    response.outputs[0].parameters["own"].int64_param = 5
    body = render_infer(response, raws, OutputForms())
    assert json.loads(b"".join(body.parts)) == {
        "id": "i",
        "model_name": "m",
        "model_version": "1",
        "outputs": [
            {"name": "a", "datatype": "FP64", "shape": [count], "data": values, "parameters": {"own": 5}},
            {"name": "id", "datatype": "BYTES", "shape": [count], "data": texts},
        ],
    }
    plain = {"a": values[0], "id": texts[0]} if count == 1 else {"a": values, "id": texts}
    assert json.loads(render_generate(response, raws)) == {
        "model_name": "m",
        "model_version": "1",
        **plain,
    }
    assert render_generate(response, raws).count(b'"id":') == 1


def test_bodies_are_unpacked_in_small_pieces() -> None:
    for data in (bytes(10**7), np.random.default_rng(1).bytes(10**6), bytes(2**18), b""):
        pieces = list(decompress(gzip.compress(data, 1), "gzip"))
        assert b"".join(pieces) == data
        assert all(0 < len(piece) <= 2**18 for piece in pieces)


class Connection(HttpConnection):
    """No connection, but its parts that a body looks at."""

    def __init__(self) -> None:
        self._now, self.peer = asyncio.get_running_loop().time, "1.2.3.4"


class Silent:
    """What comes of a body: one piece, and nothing more."""

    def __init__(self, piece: bytes) -> None:
        self.piece = piece

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        if piece := self.piece:
            self.piece = b""
            return piece
        await asyncio.sleep(60)
        raise AssertionError


def body_of(reader: BodyReader, piece: bytes) -> Body:
    request: Any = SimpleNamespace(headers={}, content=Silent(piece), protocol=Connection(), content_length=None)
    return Body(reader, request)


async def test_a_body_that_stalls_as_another_needs_its_room_fails_nobody_else() -> None:
    reader = BodyReader(ClientLimitSettings(stall_timeout_s=1.0, max_held_mib=1), max_bytes=2**30)
    stalled = body_of(reader, b"x" * 900_000)
    reading = asyncio.create_task(stalled.read())
    while stalled._waiting is None or not stalled._held_bytes:
        await asyncio.sleep(0.01)
    other, raised = body_of(reader, b""), []

    def hold() -> None:
        try:
            other._hold(500_000)
        except Exception as exc:
            raised.append(exc)

    when_s = stalled._waiting.when()
    assert when_s is not None
    asyncio.get_running_loop().call_at(when_s, hold)  # in the turn in which the first one's time is over
    with pytest.raises((CapacityError, StalledError)):
        await reading
    assert raised == []
