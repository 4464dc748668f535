"""A request at which every model fails takes neither models nor other requests with it; a broken model is taken out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError, PermanentError, SlimError, TransientError
from orchestrator.router import Answer, Router
from orchestrator.snapshot import Preference, ServedModel, TensorSpec
from orchestrator.triton.infer_wire import Tensors, encode_tensor
from tests.fakes.servers import CLASSES, FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

BAD = 9


class Picky(FakeServer):
    """Fails at every batch that holds an item of some values."""

    def __init__(
        self, *values: int, widths: Sequence[int] = (25, 50, 75, 100), error: type[SlimError] = TransientError
    ) -> None:
        super().__init__(widths)
        self.values = values
        self.error = error
        self.failed = 0

    async def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Tensors:
        answer = await super().infer_batch(model, batch, metadata=metadata)
        if any(pixels.flat[0] in self.values for pixels in batch[0]):
            self.failed += 1
            raise self.error("index out of range")
        return answer


class Reader(FakeServer):
    """Takes a text, and sends it as a client of a Triton does."""

    def __init__(self) -> None:
        super().__init__()
        self.models = tuple(replace(model, inputs=(TensorSpec("text", "BYTES", (1,)),)) for model in self.models)

    async def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Tensors:
        encode_tensor(batch[0], "BYTES")
        await asyncio.sleep(0.001)
        return (np.zeros((len(batch[0]), CLASSES), np.float32),)


def text(value: object) -> Any:
    return np.array([value], object)


async def ask_beside(router: Router, bad: int, good: int) -> list[object]:
    """Return what becomes of so many good requests that come with as many bad ones, a few at a time."""
    outcomes: list[object] = []
    for _ in range(good):
        asked = [router.infer(item(value), deadline_ms=2000) for value in (*[BAD] * bad, 1, 2, 3)]
        outcomes += (await asyncio.gather(*asked, return_exceptions=True))[bad:]
        await asyncio.sleep(0.2)
    return outcomes


async def test_who_asks_for_what_no_model_can_answer_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with routed({"a": Picky(BAD), "b": Picky(BAD)}) as router:
        await asyncio.sleep(1.0)
        with pytest.raises(TransientError, match="index out of range"):
            await router.infer(item(BAD), deadline_ms=2000)
        outcomes = await ask_beside(router, bad=1, good=30)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
        assert "is out" not in caplog.text
        assert {name: len(models) for name, models in router.served_by().items()} == {"a": 4, "b": 4}


@pytest.mark.parametrize("error", [TransientError, PermanentError])
async def test_who_goes_on_asking_for_what_no_model_can_answer_harms_nobody(error: type[SlimError]) -> None:
    """Far beyond what the budget of retries would stand."""
    async with routed({"a": Picky(BAD, error=error), "b": Picky(BAD, error=error)}) as router:
        await asyncio.sleep(1.0)
        outcomes: list[object] = []
        for _ in range(300):
            asked = [router.infer(item(value), deadline_ms=2000) for value in (BAD, BAD, BAD, 1)]
            outcomes += await asyncio.gather(*asked, return_exceptions=True)
        assert [outcome for outcome in outcomes[3::4] if isinstance(outcome, Exception)] == []
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {error}


async def test_a_refusal_that_may_be_of_another_request_is_not_given_as_ones_own() -> None:
    async with routed({"a": Picky(BAD, error=PermanentError)}, max_attempts=1) as router:
        asked = [router.infer(item(value)) for value in (1, BAD)]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(outcome, TransientError)
            assert "another request of the same batch may be to blame" in str(outcome)


async def test_a_model_that_fails_at_all_but_blank_items_is_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    broken = Picky(1, 2, 3)
    async with routed({"a": broken, "b": FakeServer()}) as router:
        await asyncio.sleep(1.0)
        outcomes = await ask_beside(router, bad=0, good=10)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
        assert "on a is out: index out of range" in caplog.text
        assert "on b is out" not in caplog.text


async def test_the_only_model_that_fails_once_and_answers_then_stays(caplog: pytest.LogCaptureFixture) -> None:
    server = Picky(widths=(100,))
    async with routed({"a": server}) as router:
        await asyncio.sleep(1.0)
        server.values = (1,)
        asked = asyncio.create_task(router.infer(item(1), deadline_ms=2000))
        await asyncio.sleep(0.001)  # it is under way
        asyncio.get_running_loop().call_later(0.012, setattr, server, "values", ())
        assert (await asked).width == 100
        assert server.failed == 1
        assert "is out" not in caplog.text


@pytest.mark.parametrize("value", ["\ud800", None, 3, bytearray(b"a")])
async def test_what_is_no_text_is_refused_as_it_comes_and_no_neighbour_fails_by_it(value: object) -> None:
    async with routed({"a": Reader()}) as router:
        asked = [router.infer(text(each)) for each in ("good", value, b"\xff", "\u00e9")]
        good, bad, raw, other = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, ConfigError)
        assert "an input of text holds" in str(bad)
        assert all(isinstance(answer, Answer) for answer in (good, raw, other)), (good, raw, other)


@pytest.mark.parametrize("weight", ["a", None, float("nan"), float("inf"), -1.0])
async def test_a_preference_with_weights_that_are_none_is_refused_and_stops_nobody(weight: Any) -> None:
    async with routed({"a": FakeServer()}) as router:
        asked = (
            router.infer(item(1), preference=Preference(weight, 0.0, 0.0)),
            router.infer(item(2), deadline_ms=1000),
        )
        bad, good = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, ConfigError)
        assert "needs finite weights from 0 on" in str(bad)
        assert isinstance(good, Answer)


async def test_a_preference_that_is_none_is_refused_and_stops_nobody() -> None:
    preference: Any = "energy"  # as clients of a gateway write it
    async with routed({"a": FakeServer()}) as router:
        asked = (router.infer(item(1), preference=preference), router.infer(item(2), deadline_ms=1000))
        bad, good = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, ConfigError)
        assert "give what parse_preference makes" in str(bad)
        assert isinstance(good, Answer)
