"""The access log: a line for each inference, of families, of other models, and of those that are refused."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.gateway.fakes import World, open_world

LOGGER = "orchestrator.gateway.access_log"
ITEM = [{"name": "pixels", "shape": [1, 2], "datatype": "FP32", "data": [[1.0, 2.0]]}]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == LOGGER]


async def ask(world: World, model: str, **body: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{world.http}/v2/models/{model}") as answer:
            inputs = (await answer.json()).get("inputs", [{"name": "x", "shape": [2]}])
        [spec] = inputs
        shape = [1 if side == -1 else side for side in spec["shape"]]
        data = np.zeros(shape).ravel().tolist()
        body = {"inputs": [{"name": spec["name"], "shape": shape, "datatype": "FP32", "data": data}], **body}
        async with session.post(f"{world.http}/v2/models/{model}/infer", json=body) as answer:
            found: dict[str, Any] = await answer.json()
            return found


async def test_a_request_that_is_late_is_logged_and_counted_with_the_width_and_server_that_had_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        async with open_world(access_log=True, router={"request_timeout_s": 2}) as world:
            async with world.busy():
                await ask(world, "fashion")
            counted = (await world.gateway.read_metrics()).values["slim_gateway_requests"]
    [line], [((model, width, server, outcome), [count])] = lines(caplog), counted.items()
    assert (model, outcome, count) == ("fashion", "deadline", 1)
    assert (line["outcome"], line["server"]) == ("deadline", server)
    assert server in world.servers
    assert int(width) in {model.width for model in world.servers[server].models}


async def test_a_line_has_what_finds_the_request_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        async with open_world(access_log=True) as world:
            answer = await ask(world, "fashion", id="r-1")
            await ask(world, "only_a", id="r-2")
            await ask(world, "fashion", id="r-3", parameters={"slim_width": 33})
            await ask(world, "nobody_has_it")
    family, passed, refused, unknown = lines(caplog)
    told = answer["parameters"]
    assert family | {"latency_s": 0, "queue_s": 0} == {
        "request_id": "r-1",
        "tenant": None,
        "address": "127.0.0.1",
        "model": "fashion",
        "outcome": "ok",
        "latency_s": 0,
        "server": told["slim_server"],
        "width": told["slim_width"],
        "batch": told["slim_batch"],
        "queue_s": 0,
        "decision_id": told["slim_decision_id"],
        "policy": told["slim_policy"],
    }
    assert family["queue_s"] >= 0  # also what the request waited to be read, which latency_s does not have
    assert family["latency_s"] > 0
    assert (passed["request_id"], passed["model"], passed["outcome"], passed["server"]) == ("r-2", "only_a", "ok", "a")
    assert (refused["request_id"], refused["outcome"]) == ("r-3", "invalid")
    assert (unknown["model"], unknown["outcome"]) == ("nobody_has_it", "not_found")


async def test_nothing_is_written_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        async with open_world() as world:
            await ask(world, "fashion")
    assert lines(caplog) == []
