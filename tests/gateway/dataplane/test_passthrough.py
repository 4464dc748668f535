"""Calls for models of no family: who is called again, within which budget, and who waits for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.config import GatewaySettings, RetrySettings
from orchestrator.errors import CapacityError, ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.dataplane.passthrough import Passthrough
from orchestrator.gateway.limits.call_budget import CallBudget
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.errors import RefusedCallError, describe_refusal
from tests.gateway.fakes import FakeTriton

pytestmark = pytest.mark.virtual_time

MESSAGE = pb.ModelInferRequest(model_name="echo").SerializeToString()
OTHER = pb.ModelInferRequest(model_name="other").SerializeToString()
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
    first: FakeTriton, second: FakeTriton, retries: RetrySettings = TIGHT, **settings: Any
) -> tuple[Passthrough, GatewayMetrics]:
    discovery = ModelDiscovery({ServerName("a"): first, ServerName("b"): second}, timeout_s=1.0)
    model_index = ModelIndex(discovery)
    await discovery.refresh()
    metrics = GatewayMetrics()
    calls = CallBudget(GatewaySettings(**{"pass_on_timeout_s": None, **settings}))
    return Passthrough(model_index, metrics, retries, calls), metrics


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


async def test_a_call_that_was_not_run_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    b.in_flight = 1
    passing, metrics = await open_passthrough(a, b)
    a.refusals = [RefusedCallError("NOT_FOUND", "Unable to find shared memory region: 'x'", executed=False)]
    with caplog.at_level(logging.INFO):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    assert retried(metrics) == 1, "that tells it"


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
    passing, _ = await open_passthrough(hanging, other, pass_on_timeout_s=2.0)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match=r"within gateway\.pass_on_timeout_s = 2; it may still run"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.0)
    assert [call for call in other.seen if call[0] == "ModelInfer"] == [], "a silent server may have run it"
    patient, _ = await open_passthrough(hanging, other)
    assert (await patient.ask("ModelInfer", MESSAGE, ()))[1] == "a"


async def test_a_model_that_was_loaded_anew_is_asked_again_what_its_outputs_are() -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton(others=["echo"])
    b.in_flight = 1
    passing, _ = await open_passthrough(a, b)
    assert (await passing.ask("ModelInfer", MESSAGE, (), classified={"x"}))[1] == "a"
    a.datatypes["echo"] = "BYTES"
    await asyncio.sleep(3)
    with pytest.raises(ConfigError, match="unsupported type 'BYTES'"):
        await passing.ask("ModelInfer", MESSAGE, (), classified={"x"})
    a.in_flight = 2
    assert (await passing.ask("ModelInfer", MESSAGE, (), classified={"x"}))[1] == "b", "what another has is another's"


class HangingModel(FakeTriton):
    """Answers nothing of the model "echo" for a minute, and all else at once."""

    async def call(self, method: str, message: bytes, metadata: Metadata = (), *, rest: Sequence[Buffer] = ()) -> bytes:
        if method == "ModelInfer" and message == MESSAGE:
            await asyncio.sleep(60)
        return await super().call(method, message, metadata, rest=rest)


def ask_all(passing: Passthrough, message: bytes, count: int) -> list[asyncio.Task[tuple[bytes, ServerName]]]:
    return [asyncio.create_task(passing.ask("ModelInfer", message, ())) for _ in range(count)]


async def test_a_model_that_hangs_leaves_half_of_the_places_to_others() -> None:
    passing, _ = await open_passthrough(HangingModel(others=["echo", "other"]), FakeTriton(), pass_on_calls=20)
    hanging = ask_all(passing, MESSAGE, 30)
    await asyncio.sleep(1)
    refused = [call.exception() for call in hanging if call.done()]
    assert len(refused) == 20 and all(isinstance(error, CapacityError) for error in refused)
    assert str(refused[0]) == (
        "model 'echo' has 10 calls under way, those that nobody waits for any more included; 10 of "
        "gateway.pass_on_calls = 20 are left for all others; ask again when some have ended, raise the limit, or "
        "restart the model's server if it hangs"
    )
    answered = await asyncio.gather(*ask_all(passing, OTHER, 5))
    assert len(answered) == 5
    await asyncio.sleep(60)
    assert sum(call.exception() is None for call in hanging) == 10
    assert len(await asyncio.gather(*ask_all(passing, MESSAGE, 10))) == 10, "what was answered gives its place back"


@pytest.mark.parametrize("is_own_deadline", [False, True])
async def test_a_call_that_was_given_up_keeps_its_place_until_it_is_answered(is_own_deadline: bool) -> None:
    models = [{"name": "echo", "max_calls": 3, "timeout_s": None if is_own_deadline else 5}]
    passing, _ = await open_passthrough(HangingModel(others=["echo", "other"]), FakeTriton(), pass_on_models=models)
    calls = ask_all(passing, MESSAGE, 3)
    await asyncio.sleep(6)
    for call in calls:
        call.cancel()  # as a transport does when the client's deadline has come
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError if is_own_deadline else DeadlineError) for end in ends)
    with pytest.raises(CapacityError, match=r"'echo' has 3 calls .*pass_on_models\[echo\]\.max_calls = 3; ask again"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert (await passing.ask("ModelMetadata", pb.ModelMetadataRequest(name="echo").SerializeToString(), ()))[1] == "a"
    await asyncio.sleep(55)
    last = ask_all(passing, MESSAGE, 1)
    await asyncio.sleep(1)
    assert not last[0].done(), "the server has answered, and all places are free"


async def test_each_model_may_have_a_time_of_its_own() -> None:
    models = [{"name": "echo", "timeout_s": 3}]
    passing, _ = await open_passthrough(
        HangingModel(others=["echo", "other"]), FakeTriton(), pass_on_models=models, pass_on_timeout_s=100
    )
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match=r"'echo' within gateway\.pass_on_models\[echo\]\.timeout_s = 3; it may"):
        await passing.ask("ModelInfer", MESSAGE, ())
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(3.0)


async def test_a_place_is_free_again_whatever_its_call_ended_with() -> None:
    a, b = FakeTriton(others=["echo"]), FakeTriton()
    passing, _ = await open_passthrough(a, b, pass_on_models=[{"name": "echo", "max_calls": 1}])
    for _ in range(3):
        a.refusals = [RefusedCallError("INTERNAL", "the model failed")]
        with pytest.raises(RefusedCallError):
            await passing.ask("ModelInfer", MESSAGE, ())
        await passing.ask("ModelInfer", MESSAGE, ())


@pytest.mark.parametrize("is_up", [True, False])
async def test_what_comes_while_all_servers_have_just_moved_waits_until_the_new_ones_were_asked(is_up: bool) -> None:
    old, new, dead = FakeTriton(others=["echo"]), FakeTriton(others=["echo"]), FakeTriton()
    new.is_up, dead.is_up = is_up, False
    discovery = ModelDiscovery({ServerName("a"): old}, timeout_s=1.0)
    passing = Passthrough(ModelIndex(discovery), GatewayMetrics(), TIGHT, CallBudget(GatewaySettings()))
    await discovery.refresh()
    discovery.reconfigure({ServerName("a"): new, ServerName("b"): dead}, closed=[ServerName("a")])
    asked = asyncio.ensure_future(passing.ask("ModelInfer", MESSAGE, ()))
    streamed = asyncio.ensure_future(passing.stream(MESSAGE, ()))
    await asyncio.sleep(0.1)
    assert not asked.done() and not streamed.done()
    await discovery.refresh(ServerName("b"))
    await asyncio.sleep(0.1)
    assert not asked.done(), "the other one may have the model"
    await discovery.refresh(ServerName("a"))
    if is_up:
        assert (await asked)[1] == "a"
        await streamed
    else:
        with pytest.raises(ServerUnavailableError, match="a, b did not answer"):
            await asked
        with pytest.raises(ServerUnavailableError):
            await streamed
