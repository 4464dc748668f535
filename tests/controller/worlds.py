"""A host in virtual time with its controller, and planners that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from orchestrator.config import ControllerSettings
from orchestrator.controller.loop import Controller
from orchestrator.controller.ports import Clocks
from orchestrator.planner.actions import Action, ActionKind, ActionReason, Plan
from orchestrator.planner.host import Batching, HostSnapshot, Limits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import ModelName, ServerName
from tests.fakes.control import FakeTriton
from tests.planner.settings import with_settings

MIB = 2**20
W025, W050, W075, W100 = (ModelName(f"fashion_w{width:03d}") for width in (25, 50, 75, 100))
LIMITS = Limits(memory_budget_bytes=1024 * MIB, minimum=(W025,), wanted=(W025, W050, W075, W100))


def now_s() -> float:
    return asyncio.get_running_loop().time()


def triton(**arguments: Any) -> FakeTriton:
    return FakeTriton(clock=asyncio.get_running_loop().time, **arguments)


def load(model: ModelName, *, instances: int = 1, batching: Batching | None = None, needed_mib: float = 64) -> Action:
    return Action(
        ActionKind.LOAD,
        model,
        ActionReason.MINIMUM_SET,
        instances,
        batching or Batching(),
        needed_bytes=int(needed_mib * MIB),
    )


def scale(model: ModelName, instances: int, *, up: bool = True) -> Action:
    kind = ActionKind.SCALE_UP if up else ActionKind.SCALE_DOWN
    return Action(kind, model, ActionReason.OVER_BUDGET, instances, needed_bytes=64 * MIB if up else 0)


def reload(model: ModelName, *, batching: Batching | None = None, is_forced: bool = False) -> Action:
    return Action(
        ActionKind.RELOAD,
        model,
        ActionReason.DRIFTED,
        1,
        batching or Batching(),
        is_forced=is_forced,
        needed_bytes=64 * MIB,
    )


def unload(model: ModelName, reason: ActionReason = ActionReason.OVER_BUDGET) -> Action:
    return Action(ActionKind.UNLOAD, model, reason, 0)


class Script:
    """A planner that plans one line a step, then nothing; keeps the snapshots it was shown."""

    def __init__(self, *lines: Action | tuple[Action, ...] | Exception) -> None:
        self.lines = list(lines)
        self.seen: list[HostSnapshot] = []
        self.at_s: list[float] = []
        self.limits: list[Limits] = []

    def __call__(
        self, snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float
    ) -> tuple[Plan, SchedulerState]:
        self.seen.append(snapshot)
        self.at_s.append(now_s)
        self.limits.append(limits)
        line = self.lines.pop(0) if self.lines else ()
        if isinstance(line, Exception):
            raise line
        return Plan((line,) if isinstance(line, Action) else line), state


def controller(server: Any, planner: Any = None, *, limits: Limits = LIMITS, **arguments: Any) -> Controller:
    settings = {key: arguments.pop(key) for key in list(arguments) if key in ControllerSettings.model_fields}
    ControllerSettings(**settings)
    if planner is not None:
        arguments["planner"] = planner
    loop = asyncio.get_running_loop()
    return Controller(
        ServerName("a"),
        server,
        server.telemetry,
        with_settings(limits, **settings) if settings else limits,
        clocks=Clocks(loop.time, lambda: 1.7e9 + loop.time()),
        **arguments,
    )


async def running(control: Controller, *, for_s: float, during: Callable[[], None] | None = None) -> None:
    """Run a controller for so long, then stop it."""
    stop = asyncio.Event()
    task = asyncio.create_task(control.run(stop))
    await asyncio.sleep(for_s)
    if during is not None:
        during()
    stop.set()
    await task
