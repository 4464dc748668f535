"""What the router relies on, asked of the fake that its tests use and of the real tritonserver alike."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.errors import PermanentError, ServerUnavailableError, SlimError
from orchestrator.router.servers.connection import ServerClient
from orchestrator.snapshot import ServedModel
from orchestrator.triton.client import TritonClient
from tests.fakes.servers import FakeServer
from tests.tritons import Tritons

REPOSITORY = Path(__file__).parents[2] / "model_repository"
Subject = tuple[ServerClient, Callable[[], Awaitable[None]]]


async def fake(_: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    server = FakeServer(shape=(1, 28, 28), max_batch_size=64, per_item_s=1e-6, fixed_s=0)

    async def kill() -> None:
        server.is_up = False

    yield server, kill


async def real(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    tritons: Tritons = request.getfixturevalue("tritons")
    with tritons.running(REPOSITORY, EmbeddedOptions()) as running:
        client = TritonClient(running.grpc_address, timeout_s=5)

        async def kill() -> None:
            os.kill(running.pid, signal.SIGKILL)
            tritons.wait_exited(running)

        yield client, kill
        await client.close()


@pytest_asyncio.fixture(params=[fake, pytest.param(real, marks=pytest.mark.integration)])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async for pair in request.param(request):
        yield pair


def images(count: int) -> NDArray[np.float32]:
    """Return images that differ in their first pixel, which is what the fake answers by."""
    batch = np.zeros((count, 1, 28, 28), np.float32)
    batch[:, 0, 0, 0] = np.arange(count)
    return batch


async def test_widths_are_described_alike_but_for_width_cost_and_accuracy(subject: Subject) -> None:
    client, _ = subject
    models = await client.served_models()
    assert [m.width for m in models] == [25, 50, 75, 100]
    assert [m.name for m in models] == [f"fashion_w{m.width:03d}" for m in models]
    assert {(m.family, m.inputs, m.outputs, m.labels, m.max_batch_size, m.instances) for m in models} == {
        ("fashion", models[0].inputs, models[0].outputs, models[0].labels, 64, 1)
    }
    assert models[0].inputs[0].shape == (1, 28, 28)
    assert models[0].inputs[0].datatype == "FP32"
    assert len(models[0].labels) == 10
    assert len({m.sha256 for m in models}) == 4
    accuracies = [m.accuracy for m in models]
    flops = [m.flops or 0 for m in models]
    assert accuracies == sorted(accuracies)
    assert flops == sorted(flops)
    assert 0.9 < accuracies[0] < accuracies[-1] < 1


async def test_a_batch_comes_back_in_order_one_row_an_item(subject: Subject) -> None:
    client, _ = subject
    for model in await client.served_models():
        (together,) = await client.infer_batch(model, (images(5),))
        assert together.shape == (5, 10)
        assert together.dtype == np.float32
        for index in range(5):
            (alone,) = await client.infer_batch(model, (images(5)[index : index + 1],))
            np.testing.assert_allclose(alone[0], together[index], atol=1e-4)


async def test_many_calls_at_once_are_all_answered(subject: Subject) -> None:
    client, _ = subject
    models = await client.served_models()
    calls = [(models[n % 4], n % 7 + 1) for n in range(60)]
    outputs = await asyncio.gather(*(client.infer_batch(model, (images(items),)) for model, items in calls))
    assert [len(output) for (output,) in outputs] == [items for _, items in calls]


async def test_an_unknown_model_was_not_executed(subject: Subject) -> None:
    client, _ = subject
    model = dataclasses.replace((await client.served_models())[0], name="fashion_w033")
    with pytest.raises(SlimError, match="unknown model") as caught:
        await client.infer_batch(model, (images(1),))
    assert isinstance(caught.value, PermanentError) or caught.value.executed is False


async def test_what_the_model_does_not_take_is_a_permanent_error_and_the_next_call_works(subject: Subject) -> None:
    client, _ = subject
    model: ServedModel = (await client.served_models())[0]
    with pytest.raises(PermanentError, match="shape"):
        await client.infer_batch(model, (np.zeros((1, 1, 27, 28), np.float32),))
    assert len((await client.infer_batch(model, (images(1),)))[0]) == 1


async def test_a_server_that_is_gone_is_unavailable(subject: Subject) -> None:
    client, kill = subject
    model = (await client.served_models())[0]
    await kill()
    with pytest.raises(ServerUnavailableError):
        await client.served_models()
    with pytest.raises(ServerUnavailableError) as caught:
        await client.infer_batch(model, (images(1),))
    assert caught.value.executed is False
