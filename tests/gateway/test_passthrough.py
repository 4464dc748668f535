"""Calls for models of no family: who is called again, within which budget, and who waits for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.config import RetrySettings
from orchestrator.errors import DeadlineError
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.passthrough import Passthrough
from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.errors import RefusedCallError, describe_refusal
from tests.gateway.fakes import FakeTriton

pytestmark = pytest.mark.virtual_time

MESSAGE = pb.ModelInferRequest(model_name="echo").SerializeToString()
STOPPING = RefusedCallError("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", executed=False)
TIGHT = RetrySettings(minimum=3, burst=3, budget_ratio=0.1)


class Hanging(FakeTriton):
    """Answers an inference after a minute, whoever still waits."""

    answered = 0

    async def call(self, method: str, message: bytes, metadata: Metadata = (), **rest: Any) -> bytes:
        if method == "ModelInfer":
            await asyncio.sleep(60)
            self.answered += 1
        return await super().call(method, message, metadata, **rest)


async def open_passthrough(
    first: FakeTriton, second: FakeTriton, retries: RetrySettings = TIGHT, *, timeout_s: float | None = None
) -> tuple[Passthrough, GatewayMetrics]:
    discovery = ModelDiscovery({ServerName("a"): first, ServerName("b"): second}, timeout_s=1.0)
    model_index = ModelIndex(discovery)
    await discovery.refresh()
    metrics = GatewayMetrics()
    return Passthrough(model_index, metrics, retries, timeout_s=timeout_s), metrics


def retried(metrics: GatewayMetrics) -> float:
    return sum(values[0] for values in metrics.snapshot().values["slim_router_retries"].values())


async def test_what_was_not_run_is_asked_again_as_long_as_there_is_a_budget() -> None:
    refusing, willing = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    passing, metrics = await open_passthrough(refusing, willing)
    refusing.refusals = [STOPPING] * 20
    outcomes: list[str] = []
    for _ in range(5):
        refusing.in_flight, willing.in_flight = 0, 1  # the refusing one is called first
        try:
            _, server = await passing.ask("ModelInfer", MESSAGE, ())
            outcomes.append(server)
        except RefusedCallError as exc:
            assert exc is STOPPING
            outcomes.append("refused")
    assert outcomes == ["b", "b", "b", "refused", "refused"], "three at once, and a tenth of three answers is none"
    assert retried(metrics) == 3
    await asyncio.sleep(10)
    assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "b", "time gives the minimum back"
    passing.retries = RetrySettings(minimum=0, budget_ratio=0.0)
    refusing.refusals = [STOPPING] * 20
    for _ in range(2):
        assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "b", "what is left may be used"
    with pytest.raises(RefusedCallError):
        await passing.ask("ModelInfer", MESSAGE, ())


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_who_asks_one_thing_after_another_meets_all_servers(every: int) -> None:
    passing, _ = await open_passthrough(FakeTriton(others=["echo"]), FakeTriton(others=["echo"]))
    met = [(await passing.ask("ModelInfer", MESSAGE, ()))[1] for _ in range(60)][::every]
    assert 0.4 <= met.count(ServerName("a")) / len(met) <= 0.6


async def test_answers_earn_retries() -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    b.in_flight = 1
    passing, metrics = await open_passthrough(a, b, RetrySettings(minimum=0, burst=3, budget_ratio=0.1))
    for _ in range(11):
        await passing.ask("ModelInfer", MESSAGE, ())
    a.refusals = [STOPPING] * 2
    assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "b"
    with pytest.raises(RefusedCallError):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert retried(metrics) == 1


async def test_what_may_have_run_is_never_asked_again() -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    b.in_flight = 1
    passing, metrics = await open_passthrough(a, b)
    a.refusals = [RefusedCallError("INTERNAL", "the model failed")]
    with pytest.raises(RefusedCallError, match="the model failed"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert (b.seen, retried(metrics)) == ([call for call in b.seen if call[0] != "ModelInfer"], 0)


async def test_what_a_model_died_of_is_not_sent_again_and_what_comes_later_is() -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    b.in_flight = 1  # a is called first
    passing, _ = await open_passthrough(a, b)
    a.refusals = [describe_refusal("INTERNAL", "Stub process 'echo_0_0' is not healthy.", "a:1") for _ in range(2)]
    with pytest.raises(RefusedCallError, match="is not healthy"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "b", "it is let alone while somebody repairs it"
    assert len(a.refusals) == 1
    await asyncio.sleep(3)
    assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "b", "that did not die by this one"
    assert a.refusals == []
    await asyncio.sleep(3)
    assert (await passing.ask("ModelInfer", MESSAGE, ()))[1] == "a"
    a.refusals = [describe_refusal("INTERNAL", "Stub process 'echo_0_0' is not healthy.", "a:1")]
    with pytest.raises(RefusedCallError, match="is not healthy"):
        await passing.ask("ModelInfer", MESSAGE, ())


async def test_nobody_waits_for_ever_and_the_call_goes_on() -> None:
    hanging = Hanging(others=["echo"])
    other = FakeTriton()
    passing, _ = await open_passthrough(hanging, other, timeout_s=2.0)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match=r"within gateway\.pass_on_timeout_s = 2; it may still run"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.0)
    assert [call for call in other.seen if call[0] == "ModelInfer"] == [], "a silent server may have run it"
    patient, _ = await open_passthrough(hanging, other)
    assert (await patient.ask("ModelInfer", MESSAGE, ()))[1] == "a"
