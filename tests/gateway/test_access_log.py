"""The access log: a line for each inference, of families, of other models, and of those that are refused."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp
import numpy as np
import pytest

from orchestrator.triton.errors import RefusedCallError
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


COUNTED = "slim_gateway_requests"


async def ends(world: World) -> dict[tuple[str, str, str], float]:
    """How often requests ended, by model, server and outcome."""
    counted = (await world.gateway.read_metrics()).values[COUNTED]
    return {(model, server, outcome): count for (model, _, server, outcome), [count] in counted.items()}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("infer", b"{", {}, 400),
        ("infer", b'{"id": "no inputs"}', {}, 400),
        ("infer", b"x", {"Content-Encoding": "gzip"}, 400),
        ("infer", b"x", {"Content-Encoding": "br"}, 501),
        ("infer", b"{}", {"Inference-Header-Content-Length": "17"}, 400),
        ("generate", b"[]", {}, 400),
        ("generate_stream", b'{"y": [1]}', {}, 400),
    ],
)
@pytest.mark.parametrize("model", ["fashion", "only_a", "nobody_has_it"])
async def test_what_can_not_be_read_is_counted_and_logged_as_its_callers_mistake(
    model: str, path: str, body: bytes, headers: dict[str, str], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        async with open_world(access_log=True) as world, aiohttp.ClientSession(world.http) as session:
            async with session.post(f"/v2/models/{model}/{path}", data=body, headers=headers) as answer:
                assert answer.status == (404 if model == "nobody_has_it" and b"y" in body else status)
            [((label, server, outcome), count)] = (await ends(world)).items()
    [line] = lines(caplog)
    assert (label, server, count) == ("" if model == "nobody_has_it" else model, "", 1)
    assert line["model"] == model
    assert line["outcome"] == outcome == ("not_found" if answer.status == 404 else "invalid")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("INTERNAL", "refused"),
        ("UNAVAILABLE", "refused"),
        ("INVALID_ARGUMENT", "invalid"),
        ("UNIMPLEMENTED", "invalid"),
    ],
)
async def test_what_a_server_refuses_is_its_failure_unless_the_request_is_wrong_and_says_which_server_it_was(
    status: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        async with open_world(access_log=True) as world:
            world.tritons["a"].refusals.append(RefusedCallError(status, "so it is"))
            assert await ask(world, "only_a") == {"error": "so it is"}
            assert await ends(world) == {("only_a", "a", outcome): 1}
    [line] = lines(caplog)
    assert (line["server"], line["outcome"]) == ("a", outcome)
