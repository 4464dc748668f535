"""Spans of requests: what is traced, how spans hang together, and what a server is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import pytest

pytest.importorskip("opentelemetry.sdk", reason="tracing needs OpenTelemetry: pip install 'slim-scheduler[otel]'")

from orchestrator.errors import ServerUnavailableError
from orchestrator.router.queue.trace import Attempt, Trace, context_of
from orchestrator.snapshot import ServerName, Width
from tests.gateway.fakes import World, open_world
from tests.gateway.otlp import Receiver, attributes, receiving

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


async def ask(world: World, *, traceparent: str | None = None, tracestate: Sequence[str] = (), **body: Any) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{world.http}/v2/models/fashion") as answer:
            [spec] = (await answer.json())["inputs"]
        shape = [1 if side == -1 else side for side in spec["shape"]]
        inputs = [{"name": spec["name"], "shape": shape, "datatype": "FP32", "data": [0.0] * (shape[-1] * shape[-2])}]
        headers = [] if traceparent is None else [("traceparent", traceparent)]
        headers += [("tracestate", state) for state in tracestate]
        url = f"{world.http}/v2/models/fashion/infer"
        async with session.post(url, json={"inputs": inputs, **body}, headers=headers) as asked:
            return asked.status


def tracing(receiver: Receiver, ratio: float = 0.0) -> dict[str, Any]:
    return {"endpoint": receiver.url, "sample_ratio": ratio}


async def test_a_callers_trace_goes_on_through_gateway_queue_and_attempt_to_the_server(receiver: Receiver) -> None:
    async with open_world(tracing=tracing(receiver)) as world:
        assert await ask(world, traceparent=f"00-{TRACE}-{CALLER}-01") == 200
        told = [value for server in world.servers.values() for _, value in server.traced]
    [root], [queue], [attempt] = (receiver.named(name) for name in ("inference", "queue", "attempt"))
    assert {span.trace_id.hex() for span in (root, queue, attempt)} == {TRACE}
    assert root.parent_span_id.hex() == CALLER
    assert queue.parent_span_id == attempt.parent_span_id == root.span_id
    assert told == [f"00-{TRACE}-{attempt.span_id.hex()}-01"]
    assert root.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano <= attempt.start_time_unix_nano <= attempt.end_time_unix_nano
    assert attempt.end_time_unix_nano <= root.end_time_unix_nano
    assert attributes(root)["slim.outcome"] == "ok"
    assert attributes(attempt).keys() == {"slim.server", "slim.width", "slim.batch"}


async def test_a_caller_that_does_not_sample_is_not_traced_whatever_the_ratio(receiver: Receiver) -> None:
    async with open_world(tracing=tracing(receiver, 1.0)) as world:
        assert await ask(world, traceparent=f"00-{TRACE}-{CALLER}-00", tracestate=["a=1"]) == 200
        told = [each for server in world.servers.values() for each in server.traced]
    assert told == [("traceparent", f"00-{TRACE}-{CALLER}-00"), ("tracestate", "a=1")]
    assert receiver.spans == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["congo=t61rcWkgMzE,a@b=1"], ["congo=t61rcWkgMzE,a@b=1"]),
        (["a=1", "b=2"], ["a=1,b=2"]),
        (["a=" + "x" * 510], ["a=" + "x" * 510]),
        (["a=" + "x" * 511], []),
        (["a=\xe9"], []),
    ],
)
async def test_a_callers_state_of_its_trace_goes_on_to_the_server_as_it_came(
    receiver: Receiver, given: list[str], told: list[str]
) -> None:
    async with open_world(tracing=tracing(receiver)) as world:
        assert await ask(world, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate=given) == 200
        assert await ask(world, traceparent="nonsense", tracestate=given) == 200  # it belongs to no trace
        found = [value for server in world.servers.values() for key, value in server.traced if key == "tracestate"]
    assert found == told


def test_a_batch_goes_on_with_the_first_trace_that_is_sampled_else_with_the_first() -> None:
    first, second, third = (Trace(f"{n:032x}", CALLER, is_sampled=n > 1) for n in (1, 2, 3))
    for trace in (second, third):
        trace.attempts.append(Attempt(ServerName("a"), Width(25), 3, 0.0))
    [(_, told)] = context_of([first, second, third])
    assert told == f"00-{second.trace_id}-{second.attempts[0].span_id}-01"
    assert context_of([first]) == (("traceparent", f"00-{first.trace_id}-{CALLER}-00"),)
    assert context_of([]) == ()


@pytest.mark.parametrize(
    "header", [None, "nonsense", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{CALLER}-01"]
)
async def test_without_a_context_the_ratio_decides(receiver: Receiver, header: str | None) -> None:
    async with open_world(tracing=tracing(receiver, 1.0)) as world:
        assert await ask(world, traceparent=header) == 200
    [root] = receiver.named("inference")
    assert root.parent_span_id == b""
    assert root.trace_id.hex() not in (TRACE, "0" * 32)


async def test_each_attempt_has_a_span_and_failures_say_so(receiver: Receiver) -> None:
    async with open_world(tracing=tracing(receiver, 1.0)) as world:
        for server in world.servers.values():
            server.failures.append(ServerUnavailableError("it is going", executed=False))
        await ask(world)
    [root] = receiver.named("inference")
    attempts = sorted(receiver.named("attempt"), key=lambda span: span.start_time_unix_nano)
    assert len(attempts) >= 2
    assert {span.parent_span_id for span in attempts} == {root.span_id}
    assert len({span.span_id for span in attempts}) == len(attempts)
    assert attributes(attempts[0])["error.type"] == "ServerUnavailableError"
    assert attempts[0].status.code == 2


async def test_what_is_refused_has_a_span_without_an_attempt(receiver: Receiver) -> None:
    async with open_world(tracing=tracing(receiver, 1.0)) as world:
        assert await ask(world, parameters={"slim_width": 33}) != 200
    [root] = receiver.named("inference")
    assert attributes(root)["slim.outcome"] == "invalid"
    assert receiver.named("attempt") == []


async def test_a_receiver_that_is_away_costs_no_answer() -> None:
    with receiving() as gone:
        settings = tracing(gone, 1.0)
    async with open_world(tracing=settings) as world:
        assert await ask(world) == 200
