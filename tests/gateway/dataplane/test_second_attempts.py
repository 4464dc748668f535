"""Requests that are sent twice are one request to those who count them: hedges, retries, calls passed through again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from orchestrator.errors import TransientError
from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import item_request
from tests.gateway.fakes import World, open_world

REQUESTS = 40
EARLY = {"hedge": {"quantile": 0.5, "floor_ms": 1.0}, "retries": {"overdue_floor_ms": 60_000}}


def counted(world: World, measure: str) -> Counter[tuple[str, ...]]:
    cells = world.gateway.snapshot_metrics().values.get(measure, {})
    return Counter({tuple(labels): int(values[0]) for labels, values in cells.items()})


async def ask(world: World, count: int = REQUESTS) -> list[Any]:
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        return list(await asyncio.gather(*(call(item_request(n % 10, id=str(n))) for n in range(count))))


def ended(world: World) -> dict[str, int]:
    """Return how many requests ended, by server and outcome."""
    found: Counter[str] = Counter()
    for (_, _, server, outcome), count in counted(world, "slim_gateway_requests").items():
        found[f"{server} {outcome}"] += count
    return {name: count for name, count in found.items() if count}


async def test_a_hedged_request_counts_once_for_whoever_answers_first() -> None:
    async with open_world(router={"policy": "round-robin:25", **EARLY}) as world:
        await ask(world)  # so that something is expected of both
        before = ended(world)
        async with world.servers["a"].busy():
            answers = await ask(world)
        assert [answer.id for answer in answers] == [str(n) for n in range(REQUESTS)]
        assert sum(ended(world).values()) == 2 * REQUESTS
        assert ended(world)["b ok"] - before.get("b ok", 0) == REQUESTS, "all that were with the one that stands still"
        hedges = counted(world, "slim_router_hedges")
        assert 0 < hedges[("a",)] <= REQUESTS
        assert counted(world, "slim_router_retries").total() == 0
        async with asyncio.timeout(10):
            while counted(world, "slim_router_groups_in_flight")[("a",)]:
                await asyncio.sleep(0.01)
        assert sum(ended(world).values()) == 2 * REQUESTS, "late answers are nobody's"


async def test_a_request_that_is_sent_again_counts_once() -> None:
    async with open_world(router={"policy": "round-robin:25"}) as world:
        world.servers["a"].failures = [TransientError("the stub has died")]
        answers = await ask(world)
        assert len(answers) == REQUESTS
        assert sum(ended(world).values()) == REQUESTS
        assert set(ended(world)) <= {"a ok", "b ok"}
        assert counted(world, "slim_router_retries")[("a",)] > 0
        assert counted(world, "slim_router_hedges").total() == 0


@pytest.mark.parametrize("in_flight", [0, 5])
async def test_a_call_that_is_passed_on_again_counts_once(in_flight: int) -> None:
    async with open_world() as world:
        first, second = ("a", "b") if in_flight else ("b", "a")
        world.tritons[second].in_flight = 9
        world.tritons[first].refusals = [RefusedCallError("UNAVAILABLE", "Server is stopping", executed=False)]
        async with grpc.aio.insecure_channel(world.grpc) as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            await call(pb.ModelInferRequest(model_name="echo").SerializeToString())
        assert ended(world) == {f"{second} ok": 1}
        assert counted(world, "slim_router_retries") == {(first,): 1}
