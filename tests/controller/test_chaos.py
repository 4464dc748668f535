"""Anything may happen at any time: memory stays within the budget, and what is wanted is loaded once it is over."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from orchestrator.controller.loop import Controller
from orchestrator.errors import ServerUnavailableError
from tests.controller.test_convergence import ready
from tests.controller.worlds import LIMITS, MIB, W025, W050, W075, W100, controller, now_s, triton
from tests.fakes.control import FakeTriton
from tests.fakes.traffic import Traffic
from tests.planner.settings import with_settings

pytestmark = pytest.mark.virtual_time

MODELS = (W025, W050, W075, W100)
BUDGET = with_settings(replace(LIMITS, memory_budget_bytes=500 * MIB), unload_after_s=20, idle_s=5, quarantine_max_s=20)


class Chaos:
    """A host, its controller, and what befalls them."""

    def __init__(self, seed: int) -> None:
        self.uniforms = random.Random(seed)
        self.server = triton(cpus=8)
        self.server.release_s = 0.5
        self.control = self._new_controller()
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.control.run(self.stop))
        self.controllers = [self.control]

    def _new_controller(self) -> Controller:
        return controller(self.server, limits=BUDGET, action_timeout_s=3)

    async def befall(self) -> None:
        server, uniforms = self.server, self.uniforms
        model = uniforms.choice(MODELS)
        match uniforms.randrange(12):
            case 0:
                server.restart()
            case 1:
                server.kill()
            case 2 if server.live_instances().get(model):
                server.kill_stub(model)
            case 3:
                server.fail_next(model, "chaos", times=uniforms.randint(1, 3))
            case 4:
                server.hang(model)
            case 5:
                server.metrics_error = uniforms.choice([None, ServerUnavailableError("chaos")])
            case 6:
                server.observe_error = uniforms.choice([None, ServerUnavailableError("chaos")])
            case 7:
                server.load_s, server.reload_s = uniforms.choice([(0.2, 0.2), (1.4, 1.4), (6.0, 6.0)])
            case 8 | 9:
                server.set_traffic(
                    model, uniforms.choice([None, Traffic(uniforms.uniform(10, 400), waiting=uniforms.random())])
                )
            case 10:
                await self.kill_controller()
            case _ if server.is_up:
                self.control.demand(model, uniforms.uniform(1, 30))

    async def kill_controller(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        self.control = self._new_controller()
        self.controllers.append(self.control)
        self.task = asyncio.create_task(self.control.run(self.stop))

    async def calm(self) -> None:
        server: FakeTriton = self.server
        for model in MODELS:
            server.set_traffic(model, None)
        server._failures.clear()
        server.load_s = server.reload_s = 1.4
        server.metrics_error = server.observe_error = None
        server.restart()
        await asyncio.sleep(120)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_memory_stays_within_the_budget_and_all_is_loaded_once_it_is_over(seed: int) -> None:
    chaos = Chaos(seed)
    while now_s() < 300:
        await asyncio.sleep(chaos.uniforms.expovariate(0.3))
        await chaos.befall()
        assert chaos.server.peak_bytes <= BUDGET.memory_budget_bytes
    await chaos.calm()
    assert await ready(chaos.server) == dict.fromkeys(MODELS, 1)
    report = chaos.control.last_report
    assert report is not None and report.seen.trouble is None
    assert report.seen.snapshot is not None and report.seen.snapshot.busy_models == frozenset()
    assert sum(control.failed_steps for control in chaos.controllers) == 0
    chaos.stop.set()
    await chaos.task
    assert chaos.server.peak_bytes <= BUDGET.memory_budget_bytes
