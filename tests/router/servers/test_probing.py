"""Servers that say they are ready, answer in time, and answer wrong."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

import numpy as np
import pytest

from orchestrator.errors import WrongAnswerError
from orchestrator.router import Router
from orchestrator.snapshot import ServedModel, ServerName, Width
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.servers import FakeServer, item, served_model
from tests.fakes.troubled import TroubledServer
from tests.router.dispatch.test_sender import RecordingObserver, router_over
from tests.router.test_router import right

pytestmark = pytest.mark.virtual_time

PROBES = {"period_s": 10}


async def test_a_server_that_turns_wrong_is_out_within_a_period_and_back_when_it_is_right_again() -> None:
    observer, wrong = RecordingObserver(), TroubledServer(per_item_s=0.001)
    servers = {"a": wrong, "b": FakeServer(per_item_s=0.01), "c": FakeServer(per_item_s=0.01)}
    async with router_over(observer, servers, probes=PROBES) as router:
        assert (await router.infer(item(3))).server == "a"
        wrong.is_wrong = True
        await asyncio.sleep(10)
        answer = await router.infer(item(3))
        assert right(answer, 3)
        assert answer.server != "a"
        assert sorted(observer.events) == [("wrong", "a", str(width)) for width in (100, 25, 50, 75)]
        await asyncio.sleep(60)
        assert not router.served_by()[ServerName("a")]
        wrong.is_wrong = False
        await asyncio.sleep(31)
        assert (await router.infer(item(3))).server == "a"
        assert observer.events[-1] == ("readmission", "a")


async def test_a_single_server_that_turns_wrong_serves_no_more_until_it_is_right() -> None:
    observer, wrong = RecordingObserver(), TroubledServer(per_item_s=0.001)
    async with router_over(observer, {"a": wrong}, probes=PROBES) as router:
        await asyncio.sleep(15)
        wrong.is_wrong = True
        assert not right(await router.infer(item(3)), 3), "it has not been asked since"
        await asyncio.sleep(20)
        call = asyncio.create_task(router.infer(item(3)))
        await asyncio.sleep(1)
        assert not call.done()
        wrong.is_wrong = False
        assert right(await call, 3)


async def test_one_that_joins_wrong_never_gets_a_request() -> None:
    observer, wrong = RecordingObserver(), TroubledServer(per_item_s=0.0001)
    wrong.is_wrong = True
    servers = {"a": FakeServer(), "b": FakeServer(), "c": wrong}
    async with router_over(observer, servers, probes=PROBES) as router:
        answers = await asyncio.gather(*(router.infer(item(n % 10)) for n in range(50)))
    assert {answer.server for answer in answers} == {"a", "b"}


async def test_two_families_of_one_file_that_are_asked_other_items_do_not_contradict_each_other() -> None:
    observer, fake = RecordingObserver(), FakeServer(widths=(50, 100))
    fake.models += tuple(
        dataclasses.replace(served_model(m.width, family="bright"), fills=(3.0,), usual_item=((1, 2, 2),))
        for m in fake.models
    )
    async with router_over(observer, {"a": fake}, probes=PROBES) as router:
        for second in range(120):
            assert right(await router.infer(item(3), family="fashion" if second < 60 else "bright"), 3)
            await asyncio.sleep(1)
    assert not [event for event in observer.events if event[0] == "wrong"]


class OneWidthWrong(TroubledServer):
    """Answers one width with nothing that a network gives."""

    async def _run(self, model: ServedModel, batch: Tensors) -> Tensors:
        outputs: Tensors = await super()._run(model, batch)
        return tuple(np.full_like(o, np.nan) for o in outputs) if self.is_wrong and model.width == 100 else outputs


@pytest.mark.parametrize("sha256", ["same", None])
async def test_only_the_width_that_is_wrong_is_out_and_nan_needs_nobody_to_compare_with(sha256: str | None) -> None:
    observer, wrong = RecordingObserver(), OneWidthWrong(per_item_s=0.001)
    wrong.models = tuple(dataclasses.replace(m, sha256=sha256 and f"{sha256}{m.width}") for m in wrong.models)
    async with router_over(observer, {"a": wrong}, probes=PROBES) as router:
        wrong.is_wrong = True
        await asyncio.sleep(10)
        assert (await router.infer(item(3))).width == 75
        assert observer.events == [("wrong", "a", "100")]


async def test_other_weights_are_no_wrong_answer() -> None:
    observer, other = RecordingObserver(), TroubledServer(per_item_s=0.001)
    other.is_wrong = True  # which is to say: another network
    other.models = tuple(dataclasses.replace(m, sha256=f"new-{m.width}") for m in other.models)
    async with router_over(observer, {"a": other, "b": FakeServer(), "c": FakeServer()}, probes=PROBES) as router:
        await asyncio.sleep(60)
        assert (await router.infer(item(3))).server == "a"
    assert observer.events == []


async def test_another_export_is_no_wrong_answer_before_it_is_known_of_either() -> None:
    observer, exported = RecordingObserver(), TroubledServer(per_item_s=0.001)
    servers = {"a": exported, "b": FakeServer(), "c": FakeServer()}
    async with router_over(observer, servers, probes={"period_s": 2}, discovery_period_s=600) as router:
        for second in range(120):
            if second == 30:
                exported.is_wrong = True  # which is to say: another network
                exported.models = tuple(dataclasses.replace(m, sha256=f"new-{m.width}") for m in exported.models)
            await router.infer(item(3))
            await asyncio.sleep(1)
        assert len(router.served_by()[ServerName("a")]) == 4
    assert observer.events == []


async def test_two_that_contradict_each_other_from_the_beginning_both_stay_and_it_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer, wrong = RecordingObserver(), TroubledServer()
    wrong.is_wrong = True
    async with router_over(observer, {"a": wrong, "b": FakeServer()}, probes=PROBES) as router:
        await asyncio.sleep(60)
        assert all(router.served_by().values())
    assert observer.events == []
    assert caplog.text.count("a third would show who is wrong") == 4


async def test_a_width_is_asked_one_item_a_period_while_it_is_used_and_once_when_it_is_not() -> None:
    observer, server = RecordingObserver(), FakeServer(per_item_s=0.02)
    async with router_over(observer, {"a": server}, probes=PROBES) as router:
        server.batches.clear()
        outcomes = []
        for n in range(100):
            outcomes.append(await router.infer(item(n % 10), width=Width(50)))
            await asyncio.sleep(1)
        ran = Counter(server.batches)
    assert ran == {(25, 1): 1, (50, 1): pytest.approx(110, abs=1), (75, 1): 1, (100, 1): 1}
    assert all(right(outcome, n % 10) for n, outcome in enumerate(outcomes))


async def test_a_server_that_is_never_idle_is_asked_only_for_widths_that_have_answered_since() -> None:
    observer, server = RecordingObserver(), FakeServer(per_item_s=0.02, max_batch_size=1)
    asked = [0]

    async def call_for_ever(router: Router, width: int) -> None:
        while True:
            await router.infer(item(1), width=Width(width))
            asked[0] += 1

    async with router_over(observer, {"a": server}, probes=PROBES) as router:
        calls = [asyncio.create_task(call_for_ever(router, width)) for width in (25, 25, 75)]
        await asyncio.sleep(11)  # by now each width has been asked once
        server.batches.clear()
        asked[0] = 0
        await asyncio.sleep(50)
        for call in calls:
            call.cancel()
        ran = Counter(width for width, _ in server.batches)
    assert set(ran) == {25, 75}
    assert len(server.batches) - asked[0] == pytest.approx(2 * 5, abs=4)


async def test_nobody_is_sent_behind_a_probe_who_has_less_time() -> None:
    quick, slow = FakeServer([100], per_item_s=0.2), FakeServer([100], per_item_s=0.25)
    async with router_over(RecordingObserver(), {"a": quick, "b": slow}, probes=PROBES) as router:
        while not quick.in_flight:
            await asyncio.sleep(0.001)
        assert not slow.in_flight, "they are asked one after another"
        answer = await router.infer(item(3), deadline_ms=300)
    assert (answer.server, answer.deadline_met) == ("b", True)


async def test_what_waits_for_a_probe_is_sent_when_it_has_ended() -> None:
    server = FakeServer([100], per_item_s=0.2)
    async with router_over(RecordingObserver(), {"a": server}, probes=PROBES, in_flight_groups=1) as router:
        while not server.in_flight:
            await asyncio.sleep(0.001)
        began_s = asyncio.get_running_loop().time()
        assert right(await router.infer(item(3), deadline_ms=5000), 3)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.4, abs=0.05)


class Unreadable(TroubledServer):
    """Answers what is no answer, as the client finds when it reads it."""

    async def _run(self, model: ServedModel, batch: Tensors) -> Tensors:
        outputs: Tensors = await super()._run(model, batch)
        if self.is_wrong:
            raise WrongAnswerError(f"model {model.name} answered 3 bytes that are no ModelInferResponse")
        return outputs


@pytest.mark.parametrize("kind", [Unreadable, OneWidthWrong])
async def test_no_caller_gets_what_no_network_gives_and_its_server_is_out_at_once(kind: type[TroubledServer]) -> None:
    observer, wrong = RecordingObserver(), kind([100], per_item_s=0.001)
    servers = {"a": wrong, "b": FakeServer([100], per_item_s=0.01)}
    async with router_over(observer, servers, probes={"period_s": 600}) as router:
        await asyncio.sleep(1)
        wrong.is_wrong = True
        answers = await asyncio.gather(*(router.infer(item(n % 10)) for n in range(100)))
        assert all(right(answer, n % 10) for n, answer in enumerate(answers))
        assert {answer.server for answer in answers} == {"b"}
        await asyncio.sleep(1)
        answered = wrong.answered
        assert right(await router.infer(item(3)), 3)
        assert wrong.answered == answered, "it is out long before the next probe is due"
        wrong.is_wrong = False
        await asyncio.sleep(40)
        assert (await router.infer(item(3))).server == "a"


async def test_unreadable_answers_do_not_end_the_probing() -> None:
    observer, wrong, later = RecordingObserver(), Unreadable(), TroubledServer(per_item_s=0.001)
    async with router_over(observer, {"a": wrong, "b": later, "c": FakeServer()}, probes=PROBES) as router:
        wrong.is_wrong = True
        await asyncio.sleep(30)
        later.is_wrong = True
        assert (await router.infer(item(3))).server == "b"
        await asyncio.sleep(30)
        served = router.served_by()
        assert not served[ServerName("a")]
        assert not served[ServerName("b")]
        assert served[ServerName("c")]
    assert not [event for event in observer.events if event[0] == "background"]


class Overflowing(FakeServer):
    """Overflows for items of sevens, as any server of the network does."""

    async def infer_batch(self, model: ServedModel, batch: Tensors) -> Tensors:
        (pixels,), (output,) = batch, await super().infer_batch(model, batch)
        output[pixels[:, 0, 0, 0] == 7] = np.inf
        output[np.isnan(pixels[:, 0, 1, 1])] = np.nan
        return (output,)


async def test_a_client_that_asks_for_infinity_gets_it_and_takes_no_server_out() -> None:
    observer = RecordingObserver()
    servers = {"a": Overflowing([100]), "b": Overflowing([100])}
    async with router_over(observer, servers, probes=PROBES) as router:
        for _ in range(20):
            odd, even = await asyncio.gather(router.infer(item(7)), router.infer(item(2)))
            assert np.isinf(odd.output).all()
            assert right(even, 2)
        assert all(router.served_by().values())
        nan = item(1).copy()
        nan[0, 1, 1] = np.nan
        sent = sum(len(server.batches) for server in servers.values())
        await router.infer(nan)
        assert sum(len(server.batches) for server in servers.values()) == sent + 1, "its answer is what it asked for"
    assert {event[0] for event in observer.events} <= {"retry"}
    assert observer.count("retry") <= 4, "a model that has just answered its probe is believed, and the budget kept"


async def test_work_in_the_background_that_fails_is_noted_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    observer, wrong = RecordingObserver(), TroubledServer(per_item_s=0.001)
    servers = {"a": wrong, "b": FakeServer(), "c": FakeServer()}
    async with router_over(observer, servers, probes=PROBES) as router:
        wrong.infer_batch = lambda model, batch: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        await asyncio.sleep(30)
        del wrong.infer_batch
        wrong.is_wrong = True
        await asyncio.sleep(30)
        assert not router.served_by()[ServerName("a")]
    assert ("background", "probing") in observer.events
    assert "probing failed unexpectedly and begins again" in caplog.text
