"""A family whose models are replaced by others that take something else, while requests wait and run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ServedModel, TensorSpec
from orchestrator.triton.infer_wire import NUMPY_TYPES, Tensors
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

WHOLE = TensorSpec("pixels", "INT32", (1, 2, 2))


class Strict(FakeServer):
    """Counts as ``wrong`` what came with other data than is declared, of which a Triton may make other numbers."""

    wrong = 0

    def infer_batch(self, model: ServedModel, batch: Tensors, **more: Any) -> Any:
        self.wrong += batch[0].dtype != np.dtype(NUMPY_TYPES[model.inputs[0].datatype])
        return super().infer_batch(model, batch, **more)

    def take_whole_numbers(self) -> None:
        self.models = tuple(replace(model, inputs=(WHOLE,), sha256=f"new-{model.width}") for model in self.models)


async def outcome(router: Router, items: Any) -> Answer | SlimError:
    try:
        return await router.infer(items)
    except SlimError as exc:
        return exc


async def test_what_waits_for_a_model_that_took_another_type_is_refused_and_spoils_no_batch() -> None:
    server = Strict()
    async with routed({"a": server}, warm_up=False, discovery_period_s=0.1, probes=None) as router:
        async with server.busy():
            old = []
            for _ in range(8):  # a server is sent less at a time
                old += [asyncio.create_task(outcome(router, item(2))) for _ in range(4)]
                await asyncio.sleep(0.001)
            server.take_whole_numbers()
            await asyncio.sleep(0.2)
            new = [asyncio.create_task(outcome(router, np.full((1, 2, 2), 3, np.int32))) for _ in range(8)]
            await asyncio.sleep(0.01)
        answered, answers = await asyncio.gather(*old), await asyncio.gather(*new)
    assert server.wrong == 0
    assert all(isinstance(answer, Answer) for answer in answers), answers
    refused = [answer for answer in answered if isinstance(answer, SlimError)]
    assert 0 < len(refused) < len(old)
    assert {(type(error), "were replaced while it waited" in str(error)) for error in refused} == {
        (ServerUnavailableError, True)
    }


async def test_servers_that_disagree_for_a_while_get_what_each_takes() -> None:
    new, old = Strict(), Strict()
    new.take_whole_numbers()
    async with routed({"a": new, "b": old}, warm_up=False, probes=None) as router:
        floats = [outcome(router, item(n)) for n in range(8)]
        whole = [outcome(router, np.full((1, 2, 2), n, np.int32)) for n in range(8)]
        answers = await asyncio.gather(*floats, *whole)
    assert [getattr(answer, "server", answer) for answer in answers] == ["b"] * 8 + ["a"] * 8
    assert (new.wrong, old.wrong) == (0, 0)
