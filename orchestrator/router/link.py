"""A server as the router holds it: its connection, what it serves, what it has in flight, whether it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.config import RouterSettings
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.profile import Run, merge_runs
from orchestrator.router.request import Array, blank_batch
from orchestrator.snapshot import Family, GroupInFlight, ServedModel, ServerName, ServerState, Width

log = logging.getLogger(__name__)

_WARM_UP_ITEMS = 8  # far enough from 1 to tell the cost of an item from the cost of a group
_RECHECK_S = 0.5  # so that a server that returns is used again within a second


class ServerClient(Protocol):
    """What the router needs of a server; TritonServer is the real one."""

    async def served_models(self) -> tuple[ServedModel, ...]:
        """Return what it serves; raises SlimError when it does not answer."""
        ...

    async def infer_batch(self, model: ServedModel, batch: Array) -> Array:
        """Return the model's output for a batch; raises SlimError."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


@dataclass(slots=True)
class ServerLink:
    """The router's record of one server; changed only on the event loop."""

    name: ServerName
    client: ServerClient
    settings: RouterSettings
    observe: Callable[[ServerName, Width, int, float], None]
    models: tuple[ServedModel, ...] = ()
    in_flight: list[GroupInFlight] = field(default_factory=list)
    last_answer_s: float | None = None
    last_run: Run | None = None  # not yet observed, because the next answer may turn out to be part of it
    problem: str | None = "not asked yet"
    _recheck: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_healthy(self) -> bool:
        """Whether the server answered when last asked."""
        return self.problem is None

    @property
    def group_limit(self) -> int:
        """Groups it may hold: one in waiting, besides one for each instance of its best-staffed width."""
        return self.settings.in_flight_groups - 1 + max((m.instances for m in self.models), default=1)

    def models_of(self, family: Family) -> tuple[ServedModel, ...]:
        """Return the widths of a family it serves, ascending."""
        return tuple(sorted((m for m in self.models if m.family == family), key=lambda m: m.width))

    def model(self, family: Family, width: Width) -> ServedModel | None:
        """Return one width of a family, None when it is not served here."""
        return next((m for m in self.models if m.family == family and m.width == width), None)

    def state(self, family: Family, bound_items: tuple[tuple[Width, int], ...]) -> ServerState:
        """Return the server as a policy sees it."""
        return ServerState(
            name=self.name,
            models=self.models_of(family),
            in_flight=tuple(self.in_flight),
            bound_items=bound_items,
            group_limit=self.group_limit,
            last_answer_s=self.last_answer_s,
            healthy=self.is_healthy,
        )

    def finish(self, group: GroupInFlight, *, now_s: float) -> None:
        """Note that a group was answered, and observe how long the server took for it."""
        # Groups run one after another, so this one began when the one before it was answered.
        run = Run(group.width, group.items, max(group.sent_s, self.last_answer_s or group.sent_s), now_s)
        merged = self.last_run and merge_runs(self.last_run, run, later_sent_s=group.sent_s)
        if self.last_run and not merged:
            self._observe_run(self.last_run)
        self.last_run, self.last_answer_s = merged or run, now_s
        if len(self.in_flight) == 1:  # this one: nothing is left that could have run with it
            self._observe_run(self.last_run)
            self.last_run = None

    def _observe_run(self, run: Run) -> None:
        self.observe(self.name, run.width, run.items, run.ended_s - run.began_s)

    def mark_unavailable(self, problem: str) -> None:
        """Send nothing more here until the server has answered again; ask it at once."""
        self.problem = problem
        self._recheck.set()

    def ask_again(self) -> None:
        """Read what it serves now instead of at the end of the period."""
        self._recheck.set()

    async def refresh(self) -> None:
        """Ask the server what it serves and note whether it answered; never raises SlimError."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                models = await self.client.served_models()
        except (SlimError, TimeoutError) as exc:
            problem = str(exc) or f"no answer within {self.settings.connect_timeout_s} s"
            if self.is_healthy:
                log.warning("server %s is gone: %s", self.name, problem)
            self.problem = problem
            return
        try:
            await self._warm_up([m for m in models if m not in self.models])
        except SlimError as exc:
            self.problem = str(exc)
            return
        if not self.is_healthy:
            log.info("server %s serves %d models", self.name, len(models))
        self.models, self.problem = models, None

    async def _warm_up(self, models: Sequence[ServedModel]) -> None:
        """Run models on blank items, each batch size once unmeasured and once measured."""
        clock = asyncio.get_running_loop().time
        for model in models if self.settings.warm_up else ():
            for items in sorted({1, min(_WARM_UP_ITEMS, model.max_batch_size)}):
                blank = blank_batch(model.input, items)
                if blank is None:
                    break
                await self.client.infer_batch(model, blank)
                began_s = clock()
                await self.client.infer_batch(model, blank)
                self.observe(self.name, model.width, items, clock() - began_s)

    async def watch(self, changed: Callable[[], None]) -> None:
        """Refresh for ever, calling ``changed`` after each time."""
        while True:
            pause_s = self.settings.discovery_period_s if self.is_healthy else _RECHECK_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._recheck.wait()
            except TimeoutError:
                pass
            self._recheck.clear()
            await self.refresh()
            changed()


def note_failure(link: ServerLink, error: SlimError) -> None:
    """Let a failed group tell on its server: unreachable takes it out, anything else makes the router look again."""
    if isinstance(error, ServerUnavailableError):
        link.mark_unavailable(str(error))
    else:
        link.ask_again()
