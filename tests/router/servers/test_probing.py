"""Servers that say they are ready, answer in time, and answer wrong."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from orchestrator.router import Answer
from orchestrator.snapshot import ServedModel, ServerName
from tests.fakes.servers import FakeServer, item
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
        await asyncio.sleep(10)
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


class OneWidthWrong(TroubledServer):
    """Answers one width with nothing that a network gives."""

    async def _run(self, model: ServedModel, batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        output = await super()._run(model, batch)
        return np.full_like(output, np.nan) if self.is_wrong and model.width == 100 else output


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


async def test_probes_cost_one_item_a_width_and_period_and_wait_for_a_quiet_moment() -> None:
    observer, server = RecordingObserver(), FakeServer(per_item_s=0.02)
    async with router_over(observer, {"a": server}, probes=PROBES) as router:
        server.batches.clear()
        await asyncio.sleep(100.5)
        assert len(server.batches) == pytest.approx(40, abs=4)
        assert {items for _, items in server.batches} == {1}
        outcomes = [await router.infer(item(n % 10)) for n in range(500)]
        assert all(isinstance(o, Answer) and right(o, n % 10) for n, o in enumerate(outcomes))
