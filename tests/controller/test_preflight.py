"""The checks before a controller acts, on the fake Triton in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from orchestrator.controller.loop import Controller
from orchestrator.controller.ports import Clocks
from orchestrator.controller.preflight import BudgetCheck, CheckedControl
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.planner.host import Limits
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName, ServerName
from tests.fakes.control import FakeTriton

pytestmark = pytest.mark.virtual_time

MIB = 1 << 20
HERE = ServerName("here")
LIMITS = Limits(memory_budget_bytes=1000 * MIB, minimum=(ModelName("fashion_w025"),))


class World:
    """A fake Triton behind its checks, with a mode that may be wrong."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.triton = FakeTriton(clock=self.clock)
        self.is_explicit = True
        self.checks: list[str] = []
        self.limits = LIMITS
        self.budget_check = BudgetCheck(
            HERE, self.triton, self.triton.telemetry, limits=lambda: self.limits, clock=self.clock, patience_s=5.0
        )
        self.control = CheckedControl(self.triton, check=self.check, first_check=self.first_check)
        self.controller = Controller(HERE, self.control, self.triton.telemetry, LIMITS, clocks=Clocks(self.clock))

    async def check(self) -> None:
        self.checks.append("mode")
        await self.triton.loaded_models()
        if not self.is_explicit:
            raise ConfigError("start it with --model-control-mode=explicit")

    async def first_check(self) -> None:
        self.checks.append("budget")
        await self.budget_check()


async def test_checks_pass_once_and_then_cost_nothing() -> None:
    world = World()
    await world.control.check()
    for _ in range(3):
        assert (await world.controller.step()).seen.trouble is None
    assert world.checks == ["mode", "budget"]
    assert [call.kind for call in world.triton.calls] == ["load"]


async def test_nothing_is_done_on_a_triton_that_fails_them() -> None:
    world = World()
    world.is_explicit = False
    with pytest.raises(ConfigError, match="explicit"):
        await world.control.check()
    for _ in range(3):
        report = await world.controller.step()
        assert report.seen.snapshot is None
        assert report.seen.trouble == "Triton can't be observed: start it with --model-control-mode=explicit"
    assert world.triton.calls == []
    world.is_explicit = True  # someone restarted it
    assert (await world.controller.step()).seen.trouble is None
    assert [call.kind for call in world.triton.calls] == ["load"]


async def test_a_triton_that_starts_later_is_checked_when_it_answers() -> None:
    world = World()
    world.triton.is_up = False
    with pytest.raises(ServerUnavailableError):
        await world.control.check()
    assert (await world.controller.step()).seen.snapshot is None
    world.triton.is_up = True
    assert (await world.controller.step()).seen.trouble is None
    assert world.checks == ["mode", "mode", "mode", "budget"]


async def test_after_an_outage_the_mode_is_checked_again_and_the_budget_is_not() -> None:
    world = World()
    assert (await world.controller.step()).seen.trouble is None
    world.triton.is_up = False
    assert (await world.controller.step()).seen.snapshot is None
    world.triton.is_up, world.is_explicit = True, False
    assert "explicit" in str((await world.controller.step()).seen.trouble)
    # Memory that others took meanwhile is the plan's business; it may take widths away.
    world.is_explicit, world.limits = True, replace(LIMITS, memory_budget_bytes=MIB)
    assert (await world.controller.step()).seen.trouble is None
    assert world.checks.count("budget") == 1


async def test_an_observation_that_was_given_up_calls_for_new_checks() -> None:
    world = World()
    await world.control.check()
    observing = asyncio.create_task(world.control.loaded_models())
    await asyncio.sleep(0)
    observing.cancel()
    await asyncio.wait([observing])
    await world.control.loaded_models()
    assert world.checks == ["mode", "budget", "mode"]


async def test_a_budget_below_the_minimum_set_is_refused() -> None:
    world = World()
    world.limits = replace(LIMITS, memory_budget_bytes=150 * MIB)
    with pytest.raises(ConfigError, match=r"servers\[here\]\.limits\.memory_budget_mib: a budget of 150 MiB can't"):
        await world.control.check()


async def test_memory_that_is_read_a_moment_later_is_waited_for() -> None:
    world = World()
    world.limits = replace(LIMITS, memory_budget_bytes=150 * MIB)
    world.triton.telemetry.is_memory_readable = False
    report = await world.controller.step()
    assert (
        report.seen.trouble == "Triton can't be observed: the memory in use can't be read yet (no tritonserver found)"
    )
    await asyncio.sleep(2)
    world.triton.telemetry.is_memory_readable = True
    assert "a budget of 150 MiB can't hold the minimum set" in str((await world.controller.step()).seen.trouble)
    assert world.triton.calls == []
    world.limits = LIMITS  # the fleet file was read again
    assert (await world.controller.step()).seen.trouble is None


async def test_memory_that_stays_unreadable_is_not_waited_for_longer() -> None:
    world = World()
    world.triton.telemetry.is_memory_readable = False
    assert (await world.controller.step()).seen.snapshot is None
    await asyncio.sleep(5)
    assert (await world.controller.step()).seen.trouble is None


async def test_counters_that_hang_don_t_keep_the_check_from_passing() -> None:
    class Silent(FakeTriton):
        async def counters(self) -> Mapping[ModelName, Counters]:
            await asyncio.sleep(1e6)
            raise AssertionError("nobody waits so long")

    clock = asyncio.get_running_loop().time
    triton = Silent(clock=clock)
    check = BudgetCheck(HERE, triton, triton.telemetry, limits=lambda: LIMITS, clock=clock)

    async def mode() -> None:
        await triton.loaded_models()

    control = CheckedControl(triton, check=mode, first_check=check)
    controller = Controller(HERE, control, triton.telemetry, LIMITS, clocks=Clocks(clock))
    report = await controller.step()
    assert report.seen.snapshot is not None, report.seen.trouble
    assert [call.kind for call in triton.calls] == ["load"], "the minimum set needs no rates"
    assert "metrics can't be read: no answer within 5 s" in str(report.seen.trouble)


async def test_a_daemon_that_was_killed_is_let_in_again_and_a_single_run_is_refused() -> None:
    world = World()
    world.triton.preload(ModelName("fashion_w025"))
    world.limits = replace(LIMITS, memory_budget_bytes=150 * MIB)
    with pytest.raises(ConfigError, match="164 MiB are in use and all is loaded"):
        await world.control.check()
    daemons = BudgetCheck(
        HERE, world.triton, world.triton.telemetry, limits=lambda: world.limits, clock=world.clock, may_be_resuming=True
    )
    await daemons()


async def test_everything_else_is_forwarded() -> None:
    world = World()
    assert world.control.repository_models() == world.triton.repository_models()
    await world.controller.step()
    assert (await world.control.counters()).keys() == {"fashion_w025"}
    await world.control.unload(ModelName("fashion_w025"))
    await world.control.close()
    assert world.triton.closed
