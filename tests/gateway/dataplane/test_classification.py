"""Classes of an output that holds no numbers end a Triton 2.51, so no server is asked for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.family import FamilyModel, read_request
from orchestrator.snapshot import Family, TensorSpec
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.fakes import World, open_world

REASON = "class result not available for output due to unsupported type"
INFERENCES = {"ModelInfer", "ModelStreamInfer"}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(others={"a": ("echo", "flags", "words"), "b": ("echo", "words")}) as opened:
        for triton in opened.tritons.values():
            triton.datatypes = {"flags": "BOOL", "words": "BYTES"}
        yield opened


def classes_request(model: str, count: int = 1) -> Any:
    request = echo_request(model)
    request.outputs.add(name="x").parameters["classification"].int64_param = count
    return request


def inferences(world: World) -> int:
    return sum(call[0] in INFERENCES for triton in world.tritons.values() for call in triton.seen)


@pytest.mark.parametrize("model", ["flags", "words"])
async def test_no_call_over_grpc_asks_for_them(world: World, raw: RawCalls, model: str) -> None:
    status, reason = await raw.refused("ModelInfer", classes_request(model))
    assert status == "INVALID_ARGUMENT"
    assert REASON in reason
    assert inferences(world) == 0


@pytest.mark.parametrize("model", ["flags", "words"])
async def test_no_stream_asks_for_them_and_it_goes_on(world: World, raw: RawCalls, model: str) -> None:
    answers = await raw.stream([echo_request(model), classes_request(model), classes_request("echo")])
    refused = [answer.error_message for answer in answers if answer.error_message]
    assert len(refused) == 1
    assert REASON in refused[0]
    assert inferences(world) == 2


@pytest.mark.parametrize("model", ["flags", "words"])
async def test_no_call_over_http_asks_for_them(world: World, http: aiohttp.ClientSession, model: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    content = {"inputs": [tensor], "outputs": [{"name": "x", "parameters": {"classification": 1}}]}
    async with http.post(f"/v2/models/{model}/infer", json=content) as response:
        assert response.status == 400
        assert REASON in await response.text()
    assert inferences(world) == 0


async def test_numbers_are_asked_for_and_servers_are_not_asked_each_time_what_they_are(
    world: World, raw: RawCalls
) -> None:
    for _ in range(20):
        await raw.infer(classes_request("echo"))
    asked = [call[0] for triton in world.tritons.values() for call in triton.seen if b"echo" in call[1]]
    assert asked.count("ModelInfer") == 20
    assert asked.count("ModelMetadata") <= len(world.tritons)


def test_a_family_of_words_has_no_classes_either() -> None:
    family = FamilyModel(Family("f"), (TensorSpec("pixels", "FP32", (1, 2, 2)),), (TensorSpec("y", "BYTES", (3,)),), 8)
    request = item_request()
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    with pytest.raises(ConfigError, match=REASON):
        read_request(request, family)
