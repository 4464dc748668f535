"""A server as the router holds it: its client, what it serves, what is in flight on it, and how much more it may get.

Whether it may be sent anything is its ``ServerHealth``; who asks it what it serves, and tries its models, is
orchestrator.router.servers.watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.config import RouterSettings
from orchestrator.errors import (
    ModelNotFoundError,
    ServerUnavailableError,
    SlimError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.policies.tables.occupancy import mark_begun
from orchestrator.profile.fit import Run, merge_runs
from orchestrator.router.servers.health import BackOff, ServerHealth
from orchestrator.snapshot import (
    SHORT_S,
    UNKNOWN_DEVICE,
    BatchInFlight,
    DeviceState,
    Family,
    ModelName,
    ServedModel,
    ServerName,
    ServerState,
    Width,
    is_within_limits,
    waiting_limit,
)
from orchestrator.triton.infer_wire import Tensors

log = logging.getLogger(__name__)

APART_S = SHORT_S / 4
"""Triton joins a batch that comes to the one that waits for an instance, which then takes as long as both. Where cores
are busy, the one that waits begins some milliseconds after the answer to the one before it. So about one of a hundred
was joined, half as many with two milliseconds between them, and hardly any with four. Half of what is to be done at the
most, so that the server does not idle; nothing where that is less than this."""


class ServerClient(Protocol):
    """What the router needs of a connection to a server; TritonClient is the real one."""

    async def served_models(self) -> tuple[ServedModel, ...]:
        """Return what the server serves; raises SlimError when it does not answer."""

    def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Awaitable[Tensors]:
        """Return the model's outputs for a batch; raises SlimError. Cancelling it must not cancel the server.

        A future costs the router less than a coroutine, for which it has to make a task. ``metadata`` goes with the
        call; there is none but for what is traced.
        """

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Release the connection, after waiting at most so long for what is under way."""


class StalledModelError(TransientError):
    """A model has left a batch unanswered, and others of its server answer."""


class StalledServerError(ServerUnavailableError):
    """A server left a batch unanswered for too long."""


@dataclass(frozen=True, slots=True)
class _ModelIndex:
    """What a server serves and may be sent, worked out once for as long as ``served`` and ``suspended`` stay.

    Attributes:
        by_name: All models that are served.
        by_family: The widths of a family that may be sent, ascending, and what is served of others, to which the
            server's load may belong; filled as they are asked for.
    """

    served: tuple[ServedModel, ...]
    suspended: object
    allowed: tuple[ServedModel, ...]
    by_name: dict[ModelName, ServedModel]
    instances: dict[ModelName, int]
    most_instances: int
    by_family: dict[Family, tuple[tuple[ServedModel, ...], tuple[ServedModel, ...]]] = field(default_factory=dict)


_NOTHING = _ModelIndex((), None, (), {}, {}, 1)


@dataclass(slots=True, eq=False)
class ServerConnection:
    """One server of the fleet; changed only on the event loop.

    What it serves, what it has in flight, and what room that leaves are asked of it one by one, because each decision
    asks for few of them.

    Attributes:
        settings: The settings of the router.
        work_s: Returns the expected seconds of work in all that is in flight on a server; 0 while unknown.
        health: Whether the server may be sent anything.
        is_driven: Whether it is this router that sends it batches; of several that share a fleet one does.
        served: What it served when it was last asked.
        is_assumed: Whether ``served`` is taken from other servers, because it has not been asked yet.
        in_flight: Batches that are sent and not answered, in the order they were sent.
        calls: Batches under way, those that nobody waits for any more included.
        last_answer_s: When it last answered a batch; None before the first time.
        device: What its device showed when its controller was last asked.
        check_soon: Set to have the server asked at once what it serves, and its models tried.
    """

    name: ServerName
    client: ServerClient
    settings: RouterSettings
    work_s: Callable[[ServerConnection], float]
    health: ServerHealth = field(default_factory=ServerHealth)
    is_driven: bool = True
    served: tuple[ServedModel, ...] = ()
    is_assumed: bool = False
    in_flight: list[BatchInFlight] = field(default_factory=list)
    calls: int = 0
    last_answer_s: float | None = None
    device: DeviceState = UNKNOWN_DEVICE
    check_soon: asyncio.Event = field(default_factory=asyncio.Event)
    _last_run: Run | None = None  # ended, and not yet observed, because the next answer may turn out to be part of it
    _known: _ModelIndex = _NOTHING

    # --- what it serves ---

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models that the server serves and may be sent."""
        return self._index().allowed

    @property
    def takes_batches(self) -> bool:
        """Whether the server answers, is not ejected, and is this router's to send to."""
        return self.is_driven and self.health.is_healthy

    @property
    def is_usable(self) -> bool:
        """Whether the server may be sent anything."""
        return self.health.is_healthy and bool(self.models)

    def _index(self) -> _ModelIndex:
        known = self._known
        if known.served is not self.served or known.suspended is not self.health.suspended:
            known = self._known = _ModelIndex(
                self.served,
                self.health.suspended,
                tuple(m for m in self.served if m.name not in self.health.suspended),
                {m.name: m for m in self.served},
                {m.name: m.instances for m in self.served},
                max((m.instances for m in self.served), default=1),
            )
        return known

    def models_of(self, family: Family) -> tuple[ServedModel, ...]:
        """Return the widths of a family that the server may be sent, ascending; one tuple while nothing changes."""
        return self._by_family(family)[0]

    def _by_family(self, family: Family) -> tuple[tuple[ServedModel, ...], tuple[ServedModel, ...]]:
        index = self._index()
        found = index.by_family.get(family)
        if found is None:
            own = sorted([m for m in index.allowed if m.family == family], key=lambda m: m.width)
            found = index.by_family[family] = tuple(own), tuple(m for m in self.served if m.family != family)
        return found

    def model(self, family: Family, width: Width) -> ServedModel | None:
        """Return one width of a family; None when it may not be sent."""
        return next((m for m in self.models_of(family) if m.width == width), None)

    def find(self, name: ModelName) -> ServedModel | None:
        """Return a model that the server serves, whether or not that may be sent now; None when it does not."""
        return self._index().by_name.get(name)

    def state(
        self, family: Family, bound_items: tuple[tuple[ModelName, int], ...], *, may_wait: bool = True
    ) -> ServerState:
        """Return the server as a policy sees it; without ``may_wait`` no batch may be sent to wait there."""
        models, other_models = self._by_family(family)
        batch_limit, waiting_limit = self.limits(may_wait=may_wait)
        return ServerState(
            name=self.name,
            models=models,
            other_models=other_models,
            in_flight=tuple(self.held()),
            bound_items=bound_items,
            batch_limit=batch_limit,
            waiting_limit=waiting_limit,
            last_answer_s=self.last_answer_s,
            healthy=self.takes_batches,
            device=self.device,
        )

    # --- how much it may get ---

    def held(self, model: ModelName | None = None) -> list[BatchInFlight]:
        """Return the batches in flight that a batch of a model, or of any that is not suspect, has to reckon with.

        Where a server is not suspect as a whole, those of suspect models are in nobody's way but their own.
        """
        suspects = self.health.suspects
        if not suspects or self.health.is_suspect or model in suspects:
            return self.in_flight
        return [batch for batch in self.in_flight if batch.model not in suspects]

    def limits(self, *, may_wait: bool = True) -> tuple[int, int]:
        """Return how many batches of all widths the server may hold, and how many of one may wait there.

        The latter besides one for each instance that runs; see ``waiting_limit``. All together as many as of its
        best-staffed width alone. Less of both just after it came back. Without ``may_wait`` none may wait there.
        """
        waiting, instances = self.settings.in_flight_groups - 1, self._index().most_instances
        if self.health.returned_s is not None:
            share = self.health.share(self.settings.ejection, now_s=asyncio.get_running_loop().time())
            waiting, instances = int(waiting * share), max(1, int(instances * share))
        if waiting > 1 and len(self.in_flight) > 1:
            waiting = int(waiting_limit(waiting, len(self.in_flight), self.work_s(self)))
        if not may_wait:
            waiting = 0
        return waiting + instances, waiting

    @property
    def has_room(self) -> bool:
        """Whether the server may be sent a batch of some width now, as far as the bound on all widths says."""
        return self.takes_batches and len(self.held()) < self.limits()[0]

    def free_batches(self, model: ServedModel, *, may_wait: bool = True) -> int:
        """Return how many batches of a model the server may be sent now; without ``may_wait``, to run at once."""
        if not self.takes_batches:
            return 0
        batches = self.held(model.name)
        of_model = sum([batch.model == model.name for batch in batches])
        held, limits = len(batches), (model.instances, *self.limits(may_wait=may_wait))
        free = 0
        while is_within_limits(held + free, of_model + free, *limits):
            free += 1
        return free

    def pause_s(self, model: ServedModel, *, now_s: float) -> float:
        """Return for how long a batch is kept back so that it is not joined to the one before it, at most ``APART_S``.

        It is 0 where the instance is free, where others wait already, where the server has so little that it could
        idle, and where there are several instances, any of which may be free before that time is over.
        """
        ahead = [batch for batch in self.in_flight if batch.model == model.name]
        work_s = self.work_s(self) if len(ahead) == model.instances == 1 else 0.0
        if work_s < APART_S:
            return 0.0
        begun_s = max(ahead[-1].sent_s, self.last_answer_s or 0.0)
        return max(0.0, begun_s + min(APART_S, work_s / 2) - now_s)

    # --- what happens on it ---

    async def infer(self, model: ServedModel, batch: Tensors) -> Tensors:
        """Return a model's outputs for a batch that no caller waits for.

        Raises:
            SlimError: as ServerClient.infer_batch.
            TimeoutError: after ``group_timeout_s``; the call itself goes on, because a client never cancels it.
        """
        async with asyncio.timeout(self.settings.group_timeout_s):
            outputs = await self.client.infer_batch(model, batch)
        self.health.heard_s = asyncio.get_running_loop().time()
        return outputs

    def finish(self, batch: BatchInFlight, *, now_s: float) -> tuple[float, list[Run]]:
        """Note that a batch was answered; return how long the server took for it, and the runs that are over by now.

        Batches that Triton ran together are one run. The caller releases the batch; equal ones are
        interchangeable, so the first that equals it will do.
        """
        instances = self._index().instances
        held = mark_begun(self.in_flight, instances, since_s=self.last_answer_s)
        own_began_s = held.pop(self.in_flight.index(batch)).began_s
        # Without an instance of its own it followed the one before it, so it began when that was answered.
        began_s = max(batch.sent_s, self.last_answer_s or batch.sent_s) if own_began_s is None else own_began_s
        run = Run(batch.model, batch.items, began_s, now_s)
        merged, ended = None, []
        if self._last_run and own_began_s is None:  # two that had an instance each were not joined
            merged = merge_runs(self._last_run, run, later_sent_s=batch.sent_s)
        if self._last_run and not merged:
            ended.append(self._last_run)
        self._last_run, self.last_answer_s = merged or run, now_s
        self.health.note_answer(batch.model, now_s=now_s)
        self.in_flight[:] = [batch, *mark_begun(held, instances, since_s=now_s)]
        if not held:  # nothing is left that could have run with it
            ended.append(self._last_run)
            self._last_run = None
        return now_s - began_s, ended

    def release(self, batch: BatchInFlight) -> None:
        """Count a batch in the server's load no more."""
        self.in_flight.remove(batch)
        if self.health.suspects:
            held = {other.model for other in self.in_flight}
            self.health.suspects = {model: at_s for model, at_s in self.health.suspects.items() if model in held}

    def note_failure(self, model: ServedModel, error: SlimError) -> None:
        """Take out what a failed batch shows to be broken, and have the server asked at once."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(error, ServerUnavailableError):
            self.note_unreachable(str(error))
            if isinstance(error, StalledServerError):
                self.health.suspend([served.name for served in self.served], BackOff(failures=1))
        elif isinstance(error, ModelNotFoundError):
            self.served = tuple(m for m in self.served if m.name != model.name)
        # The model itself failed; a full queue or a late answer is no such sign.
        elif type(error) in (TransientError, StalledModelError, WrongAnswerError):
            log.warning("model %s on %s is out: %s", model.name, self.name, error)
            self.health.back_off(model.name, now_s=now_s)
        self.check_soon.set()

    def note_unreachable(self, problem: str) -> None:
        """Take the server out as a whole until it says again what it serves."""
        if self.health.note_unreachable(problem, now_s=asyncio.get_running_loop().time()):
            log.warning("server %s is gone: %s", self.name, problem)
