"""The controller on a real tritonserver: it fills it, repairs it, and may be killed in the middle of a load."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config import ControllerSettings, ServerSettings
from orchestrator.controller.loop import Controller
from orchestrator.controller.report import StepReport
from orchestrator.controller.resolve import resolve_limits
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.planner.actions import ActionReason, NoticeKind
from orchestrator.processes.process_table import read_command_line
from orchestrator.snapshot import ServerName
from orchestrator.telemetry import open_telemetry
from orchestrator.triton.client import TritonClient
from orchestrator.triton.control import TritonControl
from orchestrator.triton.counters import read_counters
from tests.controller.worlds import W025, W050, W075, W100
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture
def server(tmp_path: Path, tritons: Tritons) -> Iterator[EmbeddedServer]:
    shutil.copytree(REPOSITORY, tmp_path / "repository")
    with tritons.running(tmp_path / "repository", EmbeddedOptions(models=(), exit_timeout_s=3)) as embedded:
        yield embedded


@asynccontextmanager
async def controlled(server: EmbeddedServer, **changes: Any) -> AsyncIterator[tuple[Controller, asyncio.Task[None]]]:
    """Run a controller beside the server, and stop it unless the test already has."""
    control = TritonControl(server.grpc_address, server.metrics_url, server.repository)
    telemetry = open_telemetry("cpu", grpc_port=int(server.grpc_address.rpartition(":")[2]))
    settings = ControllerSettings(period_s=0.5, repair_after_s=0.5, **changes)
    described = ServerSettings(name="a", grpc=server.grpc_address)
    total_bytes = (await telemetry.read()).memory_total_bytes.value
    models = control.repository_models()
    limits = resolve_limits(described, settings, models, memory_total_bytes=total_bytes, cpus=2, deadline_ms=100)
    controller = Controller(ServerName("a"), control, telemetry, limits)
    stop = asyncio.Event()
    task = asyncio.create_task(controller.run(stop))
    try:
        yield controller, task
    finally:
        stop.set()
        await asyncio.wait({task})
        await telemetry.close()


async def until(controller: Controller, holds: Callable[[StepReport], bool]) -> StepReport:
    async with asyncio.timeout(120):  # what never comes ends; a slow machine has time
        while (report := controller.last_report) is None or not holds(report):
            await asyncio.sleep(0.05)
        return report


def is_full(report: StepReport) -> bool:
    models = report.seen.snapshot.models if report.seen.snapshot else ()
    return len(models) == 4 and all(seen.is_ready for seen in models)


def is_well(report: StepReport) -> bool:
    models = report.seen.snapshot.models if report.seen.snapshot else ()
    return is_full(report) and all(seen.live_instances == seen.loaded.instances for seen in models)


async def test_a_host_is_filled_and_every_size_measured(server: EmbeddedServer) -> None:
    async with controlled(server) as (controller, _):
        report = await until(controller, is_full)
        learned = report.state.memory.loads_bytes
        assert set(learned) == {W025, W050, W075, W100}
        assert all(2**20 < sizes[-1] < 2**30 for sizes in learned.values())
        assert {record.error for record in report.recent} == {None}


async def test_a_dead_stub_is_repaired_and_answers_again(server: EmbeddedServer) -> None:
    async with controlled(server) as (controller, _):
        await until(controller, is_well)
        os.kill(server.stub_pids()[0], signal.SIGKILL)
        await until(controller, lambda report: not is_well(report))
        report = await until(controller, is_well)
        assert report.recent[-1].action.reason is ActionReason.DEAD_INSTANCE
        client = TritonClient(server.grpc_address)
        for model in (W025, W050, W075, W100):
            await client.infer(model, {"pixels": np.zeros((1, 1, 28, 28), np.float32)}, ["logits"])
        await client.close()


async def test_threads_that_a_repair_leaves_behind_are_counted_and_told(server: EmbeddedServer) -> None:
    async with (
        controlled(server, leak_limit_threads=20) as (controller, _),
        TritonClient(server.grpc_address) as client,
    ):
        await until(controller, lambda report: is_well(report) and bool(report.state.threads.fewest))
        stub_pid = next(pid for pid in server.stub_pids() if "fashion_w050_0_0" in read_command_line(pid))
        os.kill(stub_pid, signal.SIGSTOP)  # so whatever it is given stays in hand
        pixels = {"pixels": np.zeros((64, 1, 28, 28), np.float32)}
        asked = [asyncio.create_task(client.infer(W050, pixels, ["logits"])) for _ in range(8)]
        async with asyncio.timeout(60):
            while (await read_counters(server.metrics_url, timeout_s=10))[W050].pending_requests != len(asked) - 1:
                await asyncio.sleep(0.05)
        os.kill(stub_pid, signal.SIGKILL)
        await asyncio.gather(*asked, return_exceptions=True)
        report = await until(controller, lambda report: report.state.threads.left_behind > 0)
        assert report.plan is not None
        (notice,) = report.plan.notices
        assert notice.kind is NoticeKind.RESTART_ADVISED
        assert dict(notice.numbers)["left_threads"] > 20


async def test_a_controller_killed_during_a_load_is_followed_by_one_that_finishes(server: EmbeddedServer) -> None:
    async with controlled(server) as (controller, task):
        await until(controller, lambda report: bool(report.plan and report.plan.actions))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})
    async with controlled(server) as (controller, _):
        report = await until(controller, is_full)
        assert report.seen.snapshot is not None
        assert [seen.loaded.instances for seen in report.seen.snapshot.models] == [1, 1, 1, 1]


def has_rival(report: StepReport) -> bool:
    return report.plan is not None and any(notice.kind is NoticeKind.RIVAL for notice in report.plan.notices)


async def test_of_two_controllers_that_undo_each_other_one_stands_back(server: EmbeddedServer) -> None:
    sparing = {"wanted_widths": (25,), "idle_s": 0.5, "unload_after_s": 1.0}
    async with controlled(server) as (greedy, _), controlled(server, **sparing) as (other, _):
        report = await until(greedy, has_rival)
        assert report.plan is not None and report.plan.actions == ()
        done = len(report.recent)
        steps = report.steps
        report = await until(greedy, lambda report: report.steps >= steps + 10)
        assert has_rival(report) and len(report.recent) == done
        assert other.failed_steps == greedy.failed_steps == 0
