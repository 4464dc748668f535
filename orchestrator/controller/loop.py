"""The daemon's loop: observe, plan, act, report; one ``step()`` at a time.

Truth is read from Triton with every step. What the controller itself remembers (timers, learned sizes, quarantine,
demands) only makes it quicker or calmer, so it may be killed at any await and started again: it then comes to the
same plan. A step that fails in a way nobody expected is logged and tried again after a growing pause; the daemon of
a host must not end for a fault that the next step may not meet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from orchestrator.controller.actuator import Actuator
from orchestrator.controller.demands import Demands
from orchestrator.controller.observer import Observation, Observer, follow_energy, one_line
from orchestrator.controller.ports import REAL_CLOCKS, Clocks, ModelControl
from orchestrator.controller.report import StepLog, StepReport
from orchestrator.errors import ModelNotFoundError
from orchestrator.planner.actions import Action, Outcome, Plan
from orchestrator.planner.energy import EnergyAccount
from orchestrator.planner.host import Limits
from orchestrator.planner.plan import plan
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName, ServerName
from orchestrator.telemetry.reading import Telemetry

log = logging.getLogger(__name__)

Planner = Callable[..., tuple[Plan, SchedulerState]]
BACK_OFFS_S = (1.0, 2.0, 5.0, 10.0)
"""Pauses after unexpected failures in a row; the last one is repeated."""
STOP_WAIT_S = 10.0
"""Longest wait in all for what is under way when asked to stop; well within the 30 s that Kubernetes gives."""
CLOSE_WAIT_S = 2.0
"""Longest wait for the connections to close."""


class Controller:
    """Keeps one Triton loaded with the right instances.

    Args:
        control: The control of its Triton; closed at the end of ``run``.
        limits: The limits to keep to, with the timings of the loop itself.
        dry_run: Whether to observe, plan and report, and change nothing.
        planner: What decides; ``plan`` but in tests.
        on_step: A function that is called with the report of each step that was taken; not for one that failed
            unexpectedly.
        on_action: A function that is called when an action has ended or is left to itself; a step may hold several slow
            ones.

    Attributes:
        last_report: The report of the step under way with the actions that ended so far, or of the last one; None at
            first.
        failed_steps: The number of steps that failed unexpectedly; each is logged with its traceback.
    """

    def __init__(
        self,
        server: ServerName,
        control: ModelControl,
        telemetry: Telemetry,
        limits: Limits,
        *,
        clocks: Clocks = REAL_CLOCKS,
        dry_run: bool = False,
        planner: Planner = plan,
        on_step: Callable[[StepReport], None] | None = None,
        on_action: Callable[[], None] | None = None,
    ) -> None:
        self._server = server
        self._control = control
        self._limits = limits
        self._clock = clocks.monotonic
        self._wall_clock = clocks.wall
        self._sleep = clocks.sleep
        self._dry_run = dry_run
        self._planner = planner
        self._on_step = on_step
        self._on_action = on_action
        self._observer = Observer(control, telemetry, clock=clocks.monotonic)
        self._actuator = Actuator(control, telemetry, clocks=clocks)
        self._log = StepLog(server, wall_clock=clocks.wall)
        self._state = SchedulerState()
        self._demands = Demands()
        self._energy = EnergyAccount()
        self._replacement: Limits | None = None
        self._steps = 0
        self._failures_in_a_row = 0
        self.failed_steps = 0
        self.last_report: StepReport | None = None
        self._families: tuple[Family, ...] = ()
        self._is_closed = False

    def demand(self, model: ModelName, hold_s: float) -> None:
        """Keep a model loaded from the next step on, for ``hold_s`` seconds from now; a longer lease of it stands.

        Raises:
            ModelNotFoundError: when the repository, as last seen, has no such model.
            ConfigError: when ``hold_s`` is no time that may be asked for.
            CapacityError: when too many models are asked for.
        """
        snapshot = self.last_report.seen.snapshot if self.last_report else None
        if snapshot is not None and all(seen.name != model for seen in snapshot.models):
            names = ", ".join(seen.name for seen in snapshot.models) or "none"
            raise ModelNotFoundError(f"server {self._server} has no model {model!r}; its repository has {names}")
        self._demands = self._demands.hold(model, hold_s, now_s=self._clock())

    def replace_limits(self, limits: Limits) -> None:
        """Keep to other limits from the next step on; nothing that was learned is lost."""
        self._replacement = limits

    async def step(self) -> StepReport:
        """Observe, plan, act and return what came of it; only a failure that nobody expects is raised."""
        # Only between steps, so that a plan and its actions keep to the same limits.
        if self._replacement is not None:
            self._limits, self._replacement = self._replacement, None
        self._steps += 1
        began_s = self._clock()
        for outcome in self._actuator.collect():
            self.ended(outcome)
        self._demands = self._demands.at(began_s)
        seen = await self._observer.observe(busy_models=self._actuator.busy_models, demands=self._demands)
        self._log.note_trouble(seen.trouble)
        self._log.note_misfits(seen.misfits)
        self._energy = follow_energy(self._energy, seen)
        planned, plan_s = self._plan(seen)
        self.last_report = self._report_of(seen, planned, plan_s=plan_s, step_s=self._clock() - began_s)
        if seen.snapshot is not None and planned is not None and not self._dry_run:
            await self._actuator.act(
                planned.actions,
                {model.name: model.loaded for model in seen.snapshot.models},
                limits=self._limits,
                listener=self,
            )
        if self._on_step is not None:
            self._on_step(self.last_report)
        return self.last_report

    async def run(self, stop: asyncio.Event) -> None:
        """Step every ``period_s`` until asked to stop, then let what is under way end, and close the connections.

        A step that takes longer than a period skips those that it missed. Each instance runs once.
        """
        stopped = asyncio.create_task(self._see_stop(stop))
        due_s = self._clock()
        try:
            while not stop.is_set():
                back_off_s = await self._step_guarded(stopped)
                due_s = self._next_due_s(due_s) if back_off_s is None else self._clock() + back_off_s
                await self._pause(due_s - self._clock(), stopped)
            await self.close(wait_s=STOP_WAIT_S - (self._clock() - await stopped))
        finally:
            stopped.cancel()
            await self.close(wait_s=0.0)

    async def close(self, *, wait_s: float = 0.0) -> None:
        """Wait for what is under way, at most ``wait_s``, and close the connections; a second time does nothing."""
        if self._is_closed:
            return
        try:
            await self._actuator.close(wait_s=wait_s)
        finally:
            self._is_closed = True
            await self._close_control()

    def ended(self, outcome: Outcome) -> None:
        """Take what an action has shown into the state; see ``ActionListener``."""
        self._log.note_ended(outcome)
        if outcome.is_executed:
            self._state = self._state.record(outcome, self._limits)
        self._publish_action()

    def left(self, action: Action, *, took_s: float) -> None:
        """Report an action that goes on by itself; see ``ActionListener``."""
        self._log.note_left(action, took_s=took_s)
        self._publish_action()

    def withheld(self, action: Action, why: str) -> None:
        """Log an action that was not begun; see ``ActionListener``."""
        self._log.note_withheld(action, why)

    def _publish_action(self) -> None:
        if self.last_report is not None:
            self.last_report = replace(self.last_report, state=self._state, recent=self._log.recent)
        if self._on_action is not None:
            self._on_action()

    def _plan(self, seen: Observation) -> tuple[Plan | None, float]:
        """Return the plan, None without a snapshot, and the time it took to make."""
        if seen.snapshot is None:
            return None, 0.0
        began_s = self._clock()
        made, self._state = self._planner(seen.snapshot, self._state, self._limits, now_s=seen.at_s)
        plan_s = self._clock() - began_s
        self._log.note_plan(made, is_dry=self._dry_run)
        return made, plan_s

    def _report_of(self, seen: Observation, planned: Plan | None, *, plan_s: float, step_s: float) -> StepReport:
        if seen.snapshot is not None and seen.snapshot.models:
            self._families = tuple(sorted({each.model.family for each in seen.snapshot.models}))
        return StepReport(
            server=self._server,
            unix_s=self._wall_clock(),
            seen=seen,
            steps=self._steps,
            plan=planned,
            state=self._state,
            limits=self._limits,
            plan_s=plan_s,
            step_s=step_s,
            recent=self._log.recent,
            families=self._families,
            energy=self._energy,
        )

    async def _see_stop(self, stop: asyncio.Event) -> float:
        """Return when the request to stop was seen; waiting for what is under way is bounded from then on."""
        await stop.wait()
        return self._clock()

    async def _step_guarded(self, stopped: asyncio.Task[float]) -> float | None:
        """Do a step; return how long to back off when it failed, None when it did not."""
        step = asyncio.create_task(self.step())
        try:
            await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():  # a load must not be cut off, but what follows it in the plan need not begin
                self._actuator.begin_no_more()
                await asyncio.wait({step}, timeout=STOP_WAIT_S)
        finally:
            if not step.done():  # its action is the actuator's, which sees to it that it ends
                step.cancel()
                await asyncio.wait({step}, timeout=CLOSE_WAIT_S)
        exc = None if not step.done() or step.cancelled() else step.exception()
        if exc is None:
            self._failures_in_a_row = 0
            return None
        back_off_s = BACK_OFFS_S[min(self._failures_in_a_row, len(BACK_OFFS_S) - 1)]
        self._failures_in_a_row += 1
        self.failed_steps += 1
        log.error("server %s: a step failed, the next follows in %g s", self._server, back_off_s, exc_info=exc)
        # The status page is to say that the daemon no longer knows its host.
        trouble = f"a step failed unexpectedly: {type(exc).__name__}: {one_line(exc)}"
        seen = Observation(self._clock(), None, trouble, None)
        self.last_report = self._report_of(seen, None, plan_s=0.0, step_s=0.0)
        return back_off_s

    def _next_due_s(self, due_s: float) -> float:
        """Return when the next step is due: on the schedule, past those that were missed."""
        period_s, now_s = self._limits.settings.period_s, self._clock()
        missed = max(0, int((now_s - due_s) / period_s))
        return due_s + (missed + 1) * period_s

    async def _pause(self, delay_s: float, stopped: asyncio.Task[float]) -> None:
        """Sleep, but no longer than until asked to stop."""
        nap = asyncio.ensure_future(self._sleep(max(0.0, delay_s)))
        try:
            await asyncio.wait({nap, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()

    async def _close_control(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._control.close()
        except Exception as exc:
            log.warning("server %s: closing the connections failed: %s", self._server, one_line(exc))
