"""A family whose models are replaced by others, server by server, while callers ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import numpy as np

from orchestrator.snapshot import TensorSpec
from tests.gateway.calls import RawCalls, item_request
from tests.gateway.fakes import World, open_world

LARGER = TensorSpec("pixels", "FP32", (1, 3, 3))


def replace_models(world: World, server: str, **changed: Any) -> None:
    triton = world.tritons[server]
    triton.widths = {name: replace(model, **changed) for name, model in triton.widths.items()}


async def until_read(world: World) -> None:
    """Wait until every server was asked again what it has."""
    for triton in world.tritons.values():
        triton.seen.clear()
    for triton in world.tritons.values():
        while [method for method, _, _ in triton.seen].count("RepositoryIndex") < 3:
            await asyncio.sleep(0.01)


async def test_metadata_is_of_what_the_family_takes_while_one_server_has_other_models() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.grpc) as channel:
        replace_models(world, "b", inputs=(LARGER,))
        await until_read(world)
        calls = RawCalls(channel)
        for model in ("fashion", "fashion_w025"):
            shapes = {tuple((await calls.ask("ModelMetadata", name=model)).inputs[0].shape) for _ in range(6)}
            dims = {tuple((await calls.ask("ModelConfig", name=model)).config.input[0].dims) for _ in range(6)}
            assert (shapes, dims) == ({(-1, 1, 2, 2)}, {(1, 2, 2)}), model


async def test_who_asks_as_metadata_says_is_told_to_retry_until_the_router_has_the_new_models() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.grpc) as channel:
        for server in world.tritons:
            replace_models(world, server, inputs=(LARGER,))
        await until_read(world)
        request = item_request()
        request.inputs[0].shape[:] = [1, 1, 3, 3]
        request.raw_input_contents[0] = np.zeros((1, 1, 3, 3), np.float32).tobytes()
        status, problem = await RawCalls(channel).refused("ModelInfer", request)
    assert (status, "are being replaced" in problem) == ("UNAVAILABLE", True), problem


async def test_an_answer_of_models_that_the_family_no_longer_has_is_not_given_as_its_own() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.grpc) as channel:
        await RawCalls(channel).infer(item_request())
        for server in world.tritons:
            replace_models(world, server, outputs=(TensorSpec("scores", "FP32", (10,)),))
        await until_read(world)
        status, problem = await RawCalls(channel).refused("ModelInfer", item_request())
    assert (status, "was replaced" in problem) == ("UNAVAILABLE", True), problem
