"""The router over real tritonservers that serve the shipped family, with real images."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.processes.process_table import read_command_line
from orchestrator.router import Router
from orchestrator.snapshot import ServerName, Width
from orchestrator.triton.client import TritonClient
from tests.fakes.servers import NO_TIME_LIMITS
from tests.triton.calls import read_statistics
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
WIDTHS = tuple(Width(w) for w in (25, 50, 75, 100))


@pytest.fixture(scope="module")
def sample() -> LabelledSample:
    return load_sample(ROOT / "examples" / "fashion-mnist" / "test_1000.npz")


@pytest.fixture(scope="module")
def servers(tritons: Tritons) -> Iterator[list[EmbeddedServer]]:
    """Two Tritons; a test that unloads a width loads it again."""
    options = EmbeddedOptions(exit_timeout_s=2)
    with ExitStack() as stack:
        yield [stack.enter_context(tritons.running(ROOT / "model_repository", options)) for _ in range(2)]


def fleet(servers: list[EmbeddedServer], **router: object) -> FleetSettings:
    return FleetSettings(
        servers=tuple(ServerSettings(name=f"s{n}", grpc=server.grpc_address) for n, server in enumerate(servers)),
        router=RouterSettings.model_validate({"guard": NO_TIME_LIMITS, **router}),
    )


async def test_every_width_is_as_accurate_over_the_router_as_its_config_says(
    servers: list[EmbeddedServer], sample: LabelledSample
) -> None:
    async with Router.from_fleet(fleet(servers, policy="lert", deadline_ms=60_000)) as router:
        accuracies = [model.accuracy for model in router.models()]
        assert [model.width for model in router.models()] == list(WIDTHS)
        for width, expected in zip(WIDTHS, accuracies, strict=True):
            answers = await asyncio.gather(*(router.infer(image, width=width) for image in sample.images))
            assert {answer.width for answer in answers} == {width}
            right = np.mean([answer.output.argmax() for answer in answers] == sample.labels)
            # A thousand of the ten thousand images that the config's figure is over: three standard errors.
            assert abs(right - expected) < 3 * (expected * (1 - expected) / len(answers)) ** 0.5
            assert max(answer.batch for answer in answers) > 16, "concurrent callers share batches"
        assert accuracies[0] >= 0.905
        assert accuracies[1] >= 0.917
        assert accuracies[2] >= 0.924
        assert accuracies[3] >= 0.928


async def test_grouping_saves_triton_executions(servers: list[EmbeddedServer], sample: LabelledSample) -> None:
    # Golden probes are inferences too, and a deadline would make batches smaller on a machine that is busy.
    settings = fleet(servers[:1], policy="lert:25", warm_up=False, probes=None, deadline_ms=60_000)
    async with Router.from_fleet(settings) as router, TritonClient(servers[0].grpc_address) as client:
        before = await read_statistics(client, "fashion_w025")  # Triton counts its warm-up too
        await asyncio.gather(*(router.infer(image) for image in sample.images[:256]))
        after = await read_statistics(client, "fashion_w025")
        async with asyncio.timeout(10):
            while after.inference_count - before.inference_count < 256:  # Triton counts after it has answered
                await asyncio.sleep(0.01)
                after = await read_statistics(client, "fashion_w025")
    assert after.inference_count - before.inference_count == 256
    assert after.execution_count - before.execution_count <= 8


async def test_answers_do_not_depend_on_who_shares_the_batch(
    servers: list[EmbeddedServer], sample: LabelledSample
) -> None:
    images = sample.images[:40]
    async with Router.from_fleet(fleet(servers, policy="lert:50")) as router:
        together = await asyncio.gather(*(router.infer(image) for image in images))
        alone = [await router.infer(image) for image in images]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.output, other.output, atol=1e-4)


async def test_a_dead_stub_costs_no_request_and_its_width_returns_after_a_reload(
    servers: list[EmbeddedServer], sample: LabelledSample
) -> None:
    async with (
        Router.from_fleet(fleet(servers, policy="lert:100", deadline_ms=60_000)) as router,
        TritonClient(servers[0].grpc_address) as client,
    ):
        before = set(servers[0].stub_pids())
        await client.unload_model("fashion_w100")
        await client.load_model("fashion_w100")
        (stub,) = set(servers[0].stub_pids()) - before
        await asyncio.sleep(3)  # the router has seen the model go and return
        os.kill(stub, signal.SIGKILL)
        answers = await asyncio.gather(*(router.infer(image, width=Width(100)) for image in sample.images[:200]))
        assert {answer.width for answer in answers} == {100}
        await client.unload_model("fashion_w100")
        await client.load_model("fashion_w100")
        async with asyncio.timeout(60):
            while {m.width for m in router.served_by()[ServerName("s0")]} != set(WIDTHS):
                await asyncio.sleep(0.1)


async def test_a_width_whose_stubs_die_on_all_servers_costs_no_request_and_no_other_width(
    servers: list[EmbeddedServer], sample: LabelledSample
) -> None:
    stubs = [pid for server in servers for pid in server.stub_pids() if "fashion_w100_0_0" in read_command_line(pid)]
    async with Router.from_fleet(fleet(servers, policy="lert")) as router, asyncio.TaskGroup() as group:
        calls = []
        for n in range(400):
            if n == 150:
                for stub in stubs:
                    os.kill(stub, signal.SIGKILL)
            calls.append(group.create_task(router.infer(sample.images[n], deadline_ms=3000)))
            await asyncio.sleep(0.005)
        answers = [await call for call in calls]
        assert {answer.width for answer in answers[:100]} == {100}
        assert {answer.width for answer in answers[200:]} <= {25, 50, 75}
    for server in servers:
        async with TritonClient(server.grpc_address) as client:
            await client.unload_model("fashion_w100")
            await client.load_model("fashion_w100")


async def test_widths_loaded_and_unloaded_behind_the_routers_back_are_followed(
    servers: list[EmbeddedServer], sample: LabelledSample
) -> None:
    settings = fleet(servers[:1], policy="lert", discovery_period_s=0.1)
    async with Router.from_fleet(settings) as router, TritonClient(servers[0].grpc_address) as client:
        assert (await router.infer(sample.images[0])).width == 100
        await client.unload_model("fashion_w100")
        while len(router.models()) == 4:
            await asyncio.sleep(0.05)
        assert (await router.infer(sample.images[0])).width == 75
        with pytest.raises(ConfigError, match="width=100"):
            await router.infer(sample.images[0], width=Width(100))
        await client.load_model("fashion_w100")
        while len(router.models()) == 3:
            await asyncio.sleep(0.05)
        assert (await router.infer(sample.images[0])).width == 100


async def test_a_fleet_that_does_not_answer_is_refused_with_each_servers_reason() -> None:
    nobody = FleetSettings(servers=(ServerSettings(name="a", grpc="127.0.0.1:9"),))
    with pytest.raises(ServerUnavailableError, match=r"\(a: failed to connect: .*check the addresses"):
        async with Router.from_fleet(nobody):
            pass
