"""What the controller relies on, asked of the fake that its tests use and of the real tritonserver alike."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import pytest_asyncio

from orchestrator.controller.ports import ModelControl
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import ModelNotFoundError, ServerUnavailableError, SlimError
from orchestrator.planner.host import Batching, LoadedModel, ModelStatus
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName
from orchestrator.triton.client import TritonClient
from orchestrator.triton.control import TritonControl
from tests.fakes.control import FakeTriton, repository_model
from tests.tritons import Tritons

REPOSITORY = Path(__file__).parents[2] / "model_repository"
W025, W050, W100 = (ModelName(f"fashion_w{width:03d}") for width in (25, 50, 100))
LARGEST = 64


class Subject(Protocol):
    """A Triton in explicit mode that has loaded nothing yet, and what a test may do to it."""

    @property
    def control(self) -> ModelControl:
        """The subject itself."""
        ...

    async def send(self, model: ModelName, count: int) -> None:
        """Have so many requests of one item answered, one after another."""
        ...

    def break_config(self, model: ModelName) -> str:
        """Let the next load of a model fail, and return what its reason must contain."""
        ...

    def stubs(self) -> set[object]:
        """Return what is another one after a full reload and the same after a change in place."""
        ...

    async def kill(self) -> None:
        """Let the server die."""
        ...


class Fake:
    """The fake, quick enough for the suite to run in real time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        widths = (25, 50, 75, 100)
        models = [repository_model(width, max_batch_size=LARGEST) for width in widths]
        self.control = self.server = FakeTriton(models, clock=loop.time)
        self.server.load_s = self.server.reload_s = self.server.in_place_s = self.server.unload_s = 0.01

    async def send(self, model: ModelName, count: int) -> None:
        self.server.serve(model, count)

    def break_config(self, model: ModelName) -> str:
        self.server.fail_next(model, "parameter intra_op_thread_count: 'many' is not an integer")
        return "'many' is not an integer"

    def stubs(self) -> set[object]:
        return {sum(call.kind in ("load", "reload") for call in self.server.calls)}

    async def kill(self) -> None:
        self.server.kill()


class Real:
    """tritonserver on a copy of the shipped repository."""

    def __init__(self, server: EmbeddedServer, tritons: Tritons) -> None:
        self._server, self._tritons = server, tritons
        self.client = TritonClient(server.grpc_address)
        self.control = TritonControl(server.grpc_address, server.metrics_url, server.repository)

    async def send(self, model: ModelName, count: int) -> None:
        for _ in range(count):
            await self.client.infer(model, {"pixels": np.zeros((1, 1, 28, 28), np.float32)}, ["logits"])

    def break_config(self, model: ModelName) -> str:
        path = self._server.repository / model / "config.pbtxt"
        text = path.read_text()
        assert 'string_value: "1"' in text
        path.write_text(text.replace('string_value: "1"', 'string_value: "many"', 1))
        return "'many' is not an integer"

    def stubs(self) -> set[object]:
        return set(self._server.stub_pids())

    async def kill(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)
        self._tritons.wait_exited(self._server)


async def fake(_: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    yield Fake()


async def real(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    repository = request.getfixturevalue("tmp_path") / "repository"
    shutil.copytree(REPOSITORY, repository)
    tritons: Tritons = request.getfixturevalue("tritons")
    with tritons.running(repository, EmbeddedOptions(models=(), exit_timeout_s=3)) as server:
        subject = Real(server, tritons)
        yield subject
        await subject.control.close()
        await subject.client.close()


@pytest_asyncio.fixture(params=[fake, pytest.param(real, marks=pytest.mark.integration)])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async for given in request.param(request):
        yield given


async def look(subject: Subject, model: ModelName) -> LoadedModel:
    (found,) = [loaded for loaded in await subject.control.loaded_models() if loaded.name == model]
    return found


async def apply(
    subject: Subject, model: ModelName, instances: int = 1, batching: Batching | None = None, nonce: str = ""
) -> LoadedModel:
    await subject.control.apply(model, instances=instances, batching=batching or Batching(), nonce=nonce)
    return await look(subject, model)


async def count(subject: Subject, model: ModelName, *, at_least: int = 0) -> Counters:
    """Return the counters, once so many requests are in them: the real ones come a moment after the answer."""
    async with asyncio.timeout(5):
        while True:
            counters = (await subject.control.counters()).get(model, Counters())
            if counters.requests >= at_least and counters.items >= at_least:
                return counters
            await asyncio.sleep(0.02)


async def test_the_repository_is_told_ascending_and_nothing_is_loaded_at_first(subject: Subject) -> None:
    models = subject.control.repository_models()
    assert [model.width for model in models] == [25, 50, 75, 100]
    assert {(model.family, model.max_batch_size, model.instances, model.batching) for model in models} == {
        ("fashion", LARGEST, 1, Batching())
    }
    assert all(model.weights_bytes > 0 and 0.9 < model.accuracy < 1 for model in models)
    loaded = await subject.control.loaded_models()
    assert loaded == tuple(LoadedModel(model.name, ModelStatus.ABSENT) for model in models)
    assert await subject.control.counters() == {}


async def test_a_load_from_nothing_brings_the_instances_asked_for_and_no_other_width(subject: Subject) -> None:
    assert await apply(subject, W050, 2) == LoadedModel(
        W050, ModelStatus.READY, instances=2, batching=Batching(), is_python_based=True
    )
    assert (await look(subject, W025)).status is ModelStatus.ABSENT


async def test_a_count_is_changed_in_place_and_counters_go_on(subject: Subject) -> None:
    await apply(subject, W025)
    before, stubs = await count(subject, W025), subject.stubs()
    await subject.send(W025, 3)
    assert (await apply(subject, W025, 3)).instances == 3
    assert stubs <= subject.stubs()
    await asyncio.sleep(0.1)
    more = await count(subject, W025, at_least=before.requests + 3)  # and yet more where new instances warm up
    await subject.send(W025, 2)
    assert (await apply(subject, W025, 1)).instances == 1
    assert (await count(subject, W025, at_least=more.requests + 2)).requests == more.requests + 2


@pytest.mark.parametrize(
    "batching", [Batching((4, 8), 1500), Batching((), 1500), Batching((4,)), Batching((4, LARGEST))]
)
async def test_other_batching_is_a_full_reload_that_keeps_counters(subject: Subject, batching: Batching) -> None:
    await apply(subject, W025)
    await subject.send(W025, 2)
    before, stubs = await count(subject, W025), subject.stubs()
    loaded = await apply(subject, W025, batching=batching)
    assert (loaded.batching, loaded.is_canonical) == (batching, True)
    assert not subject.stubs() <= stubs
    await count(subject, W025, at_least=before.requests)


async def test_the_largest_batch_alone_is_what_no_preference_means(subject: Subject) -> None:
    await apply(subject, W025)
    before = subject.stubs()
    assert (await apply(subject, W025, batching=Batching((LARGEST,)))).batching == Batching()
    assert subject.stubs() == before


async def test_a_nonce_forces_a_reload_and_repeated_it_does_not(subject: Subject) -> None:
    await apply(subject, W025)
    before = subject.stubs()
    loaded = await apply(subject, W025, nonce="one")
    assert (loaded.nonce, loaded.is_canonical) == ("one", True)
    forced = subject.stubs() - before
    assert forced
    assert (await apply(subject, W025, 2, nonce="one")).nonce == "one"
    assert forced <= subject.stubs()
    assert (await apply(subject, W025, 2, nonce="two")).nonce == "two"


async def test_after_an_unload_a_model_is_absent_and_begins_at_zero(subject: Subject) -> None:
    await apply(subject, W025, 2)
    fresh = await count(subject, W025)
    await subject.send(W025, 2)
    await subject.control.unload(W025)
    assert await look(subject, W025) == LoadedModel(W025, ModelStatus.ABSENT)
    await subject.control.unload(W025)  # once more changes nothing
    async with asyncio.timeout(5):
        while W025 in await subject.control.counters():  # the real one's may go a moment later than the model
            await asyncio.sleep(0.05)
    assert (await apply(subject, W025, 2)).status is ModelStatus.READY
    assert (await count(subject, W025)).requests == fresh.requests


async def test_counters_grow_with_requests(subject: Subject) -> None:
    await apply(subject, W025)
    await apply(subject, W100)
    before, other = await count(subject, W025), await count(subject, W100)
    await subject.send(W025, 4)
    after = await count(subject, W025, at_least=before.requests + 4)
    for name in ("requests", "items", "executions"):
        assert getattr(after, name) == getattr(before, name) + 4
    assert after.service_s > before.service_s
    assert (after.failures, after.pending_requests) == (0, 0)
    assert await count(subject, W100) == other


async def test_a_config_that_fails_leaves_the_old_one_serving(subject: Subject) -> None:
    await apply(subject, W025)
    reason = subject.break_config(W025)
    with pytest.raises(SlimError, match=reason) as caught:
        await subject.control.apply(W025, instances=1, batching=Batching((4,)), nonce="")
    assert "\n" not in str(caught.value)
    loaded = await look(subject, W025)
    assert (loaded.status, loaded.instances, loaded.batching) == (ModelStatus.READY, 1, Batching())
    await subject.send(W025, 1)


async def test_a_first_load_that_fails_is_told_with_its_reason(subject: Subject) -> None:
    reason = subject.break_config(W025)
    with pytest.raises(SlimError, match=reason):
        await subject.control.apply(W025, instances=1, batching=Batching(), nonce="")
    failed = await look(subject, W025)
    assert failed.status is ModelStatus.FAILED
    assert reason in failed.reason
    assert "\n" not in failed.reason


async def test_unknown_models_are_errors(subject: Subject) -> None:
    unknown = ModelName("fashion_w033")
    with pytest.raises(ModelNotFoundError, match="fashion_w033"):
        await subject.control.apply(unknown, instances=1, batching=Batching(), nonce="")
    with pytest.raises(ModelNotFoundError, match="fashion_w033"):
        await subject.control.unload(unknown)


async def test_changes_of_one_model_at_once_queue_up(subject: Subject) -> None:
    await asyncio.gather(apply(subject, W025), apply(subject, W050), subject.control.unload(W100))
    models = await subject.control.loaded_models()
    assert [m.status for m in models] == [ModelStatus.READY, ModelStatus.READY, ModelStatus.ABSENT, ModelStatus.ABSENT]


async def test_a_dead_server_is_unavailable(subject: Subject) -> None:
    await apply(subject, W025)
    await subject.kill()
    with pytest.raises(ServerUnavailableError):
        await subject.control.loaded_models()
    with pytest.raises(ServerUnavailableError):
        await subject.control.counters()
    with pytest.raises(ServerUnavailableError):
        await subject.control.apply(W025, instances=2, batching=Batching(), nonce="")
    with pytest.raises(ServerUnavailableError):
        await subject.control.unload(W025)
    assert len(subject.control.repository_models()) == 4
