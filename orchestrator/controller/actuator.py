"""Performs the actions of a plan one after another, so that what memory does in between belongs to one of them.

Before and after each action the memory is read; after it until two readings agree, because Triton gives memory back
behind its answer. An action that takes longer than a step waits goes on as a task of its own: Triton does not stop a
load whose caller is gone, so cancelling would only lose sight of it. Until it has ended

- its model is busy, and no other action of it is begun;
- nothing is begun that needs memory, because the reading can't be trusted and its rise would belong to nobody;
- what gives memory back may run, and says nothing of sizes.

An action stays in the books until its outcome has been handed over, so a cancelled step loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.controller.observer import OBSERVE_TIMEOUT_S, one_line, read_host, used_bytes
from orchestrator.controller.ports import Clocks, ModelControl
from orchestrator.errors import SlimError, TransientError
from orchestrator.planner.actions import Action, ActionKind, Outcome
from orchestrator.planner.host import Limits, LoadedModel, ModelStatus
from orchestrator.planner.scaling.plan_builder import still_fits
from orchestrator.snapshot import ModelName
from orchestrator.telemetry.reading import Telemetry

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Longest wait for memory to settle; the C++ backends free the old version of a reload well within it."""
STUB_END_S = 1.5
"""More for each stub of the old version: Triton 2.51 ends them one after another, 1.2 s each as measured."""
LONGEST_SETTLE_S = 8.0
"""However many there are; a controller must not be blind for longer."""
SETTLE_INTERVAL_S = 0.1
"""Between two readings; on CPU one sums up the pages of every stub."""
SETTLED_BYTES = 1 << 20
SETTLED_RATIO = 0.01
"""Two readings agree when they differ by less than SETTLED_BYTES, or by this part of the change since before."""
CANCEL_S = 1.0
"""How long a cancelled call may take to end."""

_NEEDS_MEMORY = frozenset({ActionKind.LOAD, ActionKind.SCALE_UP, ActionKind.RELOAD})


class ActionListener(Protocol):
    """Takes what comes of actions, each time at once."""

    def ended(self, outcome: Outcome) -> None:
        """Take note of an action that ended."""

    def left(self, action: Action, *, took_s: float) -> None:
        """Take note of an action that goes on by itself."""

    def withheld(self, action: Action, why: str) -> None:
        """Take note of an action that was planned and not begun."""


@dataclass(slots=True)
class _UnderWay:
    begun: Outcome
    settle_s: float
    task: asyncio.Task[Outcome]
    is_late: bool = False


class Actuator:
    """Owns every action from its beginning until its outcome was handed over."""

    def __init__(self, control: ModelControl, telemetry: Telemetry, *, clocks: Clocks) -> None:
        self._control = control
        self._telemetry = telemetry
        self._clock = clocks.monotonic
        self._wall_clock = clocks.wall
        self._sleep = clocks.sleep
        self._under_way: dict[ModelName, _UnderWay] = {}
        self._nonces = 0
        self._settled_from_s = self._clock()
        self._is_closing = False

    @property
    def busy_models(self) -> frozenset[ModelName]:
        """Models whose action has not ended, or whose outcome was not collected."""
        return frozenset(self._under_way)

    def collect(self) -> tuple[Outcome, ...]:
        """Return the outcomes of actions that ended since they were left to themselves, in the order of their ends."""
        done = [entry for entry in self._under_way.values() if entry.task.done()]
        outcomes = [self._hand_over(entry, None, None) for entry in done]
        return tuple(sorted(outcomes, key=lambda outcome: (outcome.ended_s, outcome.action.model)))

    async def act(
        self,
        actions: tuple[Action, ...],
        loaded: Mapping[ModelName, LoadedModel],
        *,
        limits: Limits,
        listener: ActionListener,
    ) -> None:
        """Perform actions in order; the first that fails or no longer fits ends it, the rest was planned on it.

        ``loaded`` are the models as they were when the plan was made. Its ``limits`` say too for how long each action
        is waited for.
        """
        settled_bytes: int | None = None
        for action in actions:
            others = self.busy_models
            if action.model in others or (others and action.kind in _NEEDS_MEMORY):
                listener.withheld(action, f"waits for {', '.join(sorted(others))}")
                continue
            # A reading taken while others are under way belongs to nobody.
            before = None if others else settled_bytes or await self._read_before()
            if not still_fits(action, before, limits):
                listener.withheld(action, f"no longer fits: used_bytes={before} needed_bytes={action.needed_bytes}")
                return
            if self._is_closing:
                return
            entry = self._begin(action, loaded.get(action.model))
            await asyncio.wait({entry.task}, timeout=limits.settings.action_timeout_s)
            if not entry.task.done():
                entry.is_late = True
                listener.left(action, took_s=self._clock() - entry.begun.began_s)
                continue
            is_done = not entry.task.cancelled() and entry.task.result().error is None
            # The reading after one action is the reading before the next, which spares a look at every stub.
            settled_bytes = await self._settle(entry, before) if is_done and before is not None else None
            outcome = self._hand_over(entry, before, settled_bytes)
            listener.ended(outcome)
            if outcome.error is not None:
                return

    def begin_no_more(self) -> None:
        """Begin no further action; those under way go on."""
        self._is_closing = True

    async def close(self, *, wait_s: float) -> None:
        """Wait for what is under way, and after ``wait_s`` no longer; Triton finishes it all the same."""
        self._is_closing = True
        tasks = {entry.task for entry in self._under_way.values()}
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=max(0.0, wait_s))
        finally:
            pending = {task for task in tasks if not task.done()}
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=CANCEL_S)

    def _begin(self, action: Action, loaded: LoadedModel | None) -> _UnderWay:
        loaded = loaded or LoadedModel(action.model, ModelStatus.ABSENT)
        nonce = self._fresh_nonce(loaded.nonce) if action.is_forced else loaded.nonce
        now_s = self._clock()
        begun = Outcome(action, now_s, now_s, instances_before=loaded.instances)
        task = asyncio.create_task(self._execute(begun, nonce), name=f"{action.kind} {action.model}")
        # The stubs of an old version end behind Triton's answer; those to an unload and to a smaller count come when
        # theirs have.
        stubs = loaded.instances if action.kind is ActionKind.RELOAD and loaded.is_python_based else 0
        settle_s = min(LONGEST_SETTLE_S, SETTLE_S + stubs * STUB_END_S)
        entry = self._under_way[action.model] = _UnderWay(begun, settle_s, task)
        return entry

    def _fresh_nonce(self, current: str) -> str:
        """Return a marker that no config has had: neither this controller's nor one's before it was restarted."""
        while True:
            self._nonces += 1
            nonce = f"{int(self._wall_clock() * 1000):x}-{self._nonces}"
            if nonce != current:
                return nonce

    async def _execute(self, begun: Outcome, nonce: str) -> Outcome:
        action = begun.action
        try:
            if action.kind is ActionKind.UNLOAD:
                await self._control.unload(action.model)
            else:
                await self._control.apply(
                    action.model, instances=action.instances, batching=action.batching, nonce=nonce
                )
            return replace(begun, ended_s=self._clock(), error=await self._verify(action))
        except (SlimError, TimeoutError) as exc:
            is_executed = not isinstance(exc, TransientError) or exc.executed
            return replace(begun, ended_s=self._clock(), error=one_line(exc), is_executed=is_executed)
        except Exception as exc:
            log.exception("%s of %s failed unexpectedly", action.kind, action.model)
            return replace(begun, ended_s=self._clock(), error=f"{type(exc).__name__}: {one_line(exc)}")

    async def _verify(self, action: Action) -> str | None:
        """Return in what Triton contradicts an action that it called done, None when it agrees.

        The batching is left to the next observation: Triton may fill in a preferred size of its own.
        """
        async with asyncio.timeout(OBSERVE_TIMEOUT_S):
            loaded = await self._control.loaded_models()
        found = next((model for model in loaded if model.name == action.model), None)
        status = found.status if found else ModelStatus.ABSENT
        if action.kind is ActionKind.UNLOAD:
            return f"Triton called it unloaded, yet it is {status}" if status is ModelStatus.READY else None
        if found is None or status is not ModelStatus.READY:
            return f"Triton called it loaded, yet it is {status}" + (
                f": {found.reason}" if found and found.reason else ""
            )
        if found.instances != action.instances:
            return f"Triton runs {found.instances} instances of it where {action.instances} were asked for"
        return None

    def _hand_over(self, entry: _UnderWay, before: int | None, after: int | None) -> Outcome:
        """Take an ended action out of the books and return what came of it."""
        is_given_up = entry.task.cancelled()
        outcome = replace(entry.begun, ended_s=self._clock(), error="given up") if is_given_up else entry.task.result()
        del self._under_way[outcome.action.model]
        if after is None:  # nobody has waited for its memory to settle
            self._settled_from_s = max(self._settled_from_s, outcome.ended_s + entry.settle_s)
        return replace(outcome, memory_before_bytes=before, memory_after_bytes=after, is_late=entry.is_late)

    async def _read_before(self) -> int | None:
        """Return the memory in use; at once, unless an action ended just now whose memory nobody has seen settle."""
        wait_s = self._settled_from_s - self._clock()
        if wait_s > 0:
            await self._sleep(wait_s)
        return await self._read()

    async def _settle(self, entry: _UnderWay, before: int) -> int | None:
        """Return the memory in use once it stands still, as it is then when that takes too long.

        What an unload gives back comes after Triton's answer, and so does the end of a reload's old version with its
        stubs; two readings that agree before anything has come mean nothing.
        """
        kind, ends_s = entry.begun.action.kind, self._clock() + entry.settle_s
        last = await self._read()
        while last is not None and self._clock() < ends_s:
            await self._sleep(SETTLE_INTERVAL_S)
            now = await self._read()
            if now is None:
                return None
            if abs(now - last) < max(SETTLED_BYTES, SETTLED_RATIO * abs(now - before)) and _has_come(kind, now, before):
                return now
            last = now
        return last

    async def _read(self) -> int | None:
        return used_bytes(await read_host(self._telemetry))


def _has_come(kind: ActionKind, now: int, before: int) -> bool:
    """Return whether memory has moved the way in which an action moves it."""
    match kind:
        case ActionKind.UNLOAD | ActionKind.SCALE_DOWN:
            return now <= before - SETTLED_BYTES
        case ActionKind.RELOAD:
            return now <= before + SETTLED_BYTES
        case _:
            return True
