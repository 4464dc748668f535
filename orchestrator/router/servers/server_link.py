"""A server as the router holds it: its connection, what it serves, what it has in flight, whether it answers.

Several things can be wrong, and each takes out as little as it must:

- A server that can't be reached, or leaves a group unanswered, is out as a whole. After a stall it returns only when
  it has answered blank items again: one that hangs may well go on saying that it is ready.
- A model that fails (a Python stub that died keeps its model "ready") is out alone, and returns when it has answered
  blank items; it is asked again after 1, 2, 4, … seconds.
- A model that answers the known item wrong is out alone too, until it answers it right.
- A model that is new, and in no profile, is tried on blank items before it is used; so the first decisions rest on
  measured times.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.config import EjectionSettings, RouterSettings
from orchestrator.errors import (
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.policies import mark_begun
from orchestrator.profile import Run, merge_runs
from orchestrator.router.dispatch.splitting import SHORT_S
from orchestrator.router.queue.request import Array, blank_batch, known_batch
from orchestrator.router.servers.ejection import ServerHealth
from orchestrator.snapshot import (
    BatchInFlight,
    Family,
    ModelName,
    ServedModel,
    ServerName,
    ServerState,
    Width,
    has_room,
)

log = logging.getLogger(__name__)

_WARM_UP_ITEMS = 8  # far enough from 1 to tell the cost of an item from the cost of a group
_RECHECK_S = 0.25  # so that a server that returns is used again within a second
_BLIP_S = 1.0  # who was away for less comes back at full share
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class ServerClient(Protocol):
    """What the router needs of a server; TritonClient is the real one."""

    async def served_models(self) -> tuple[ServedModel, ...]:
        """Return what it serves; raises SlimError when it does not answer."""
        ...

    def infer_batch(self, model: ServedModel, batch: Array) -> Awaitable[Array]:
        """Return the model's output for a batch; raises SlimError. Cancelling it must not cancel the server.

        A future costs the router less than a coroutine, for which it has to make a task.
        """
        ...

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Release the connection, after waiting at most so long for what is under way."""
        ...


class StalledServerError(ServerUnavailableError):
    """A server left a group unanswered for too long."""


@dataclass(slots=True)
class _Suspension:
    """Why a model is not used: it is new, or it failed.

    Attributes:
        failures: in a row.
        until_s: it is not asked before this.
    """

    failures: int = 0
    until_s: float = 0.0

    def extend(self, now_s: float) -> None:
        self.until_s = now_s + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self.failures)
        self.failures += 1


@dataclass(frozen=True, slots=True)
class _CandidateSets:
    """What a server may be sent, worked out once for as long as neither of the first two changes.

    Attributes:
        served: of the link when this was worked out.
        suspended: names of models that were out then.
        models: that may be sent.
        instances: of each model that is served, by name.
        by_family: the widths of a family that may be sent, ascending.
        others: what is served of other families than one.
    """

    served: tuple[ServedModel, ...]
    suspended: frozenset[ModelName]
    models: tuple[ServedModel, ...]
    instances: dict[ModelName, int]
    by_family: dict[Family, tuple[ServedModel, ...]] = field(default_factory=dict)
    others: dict[Family, tuple[ServedModel, ...]] = field(default_factory=dict)


_NOTHING = _CandidateSets((), frozenset(), (), {})


def _is_unknown(server: ServerName, model: ServedModel) -> bool:
    return False


def _is_believed(link: ServerLink, model: ServedModel, answer: Array) -> str | None:
    return None


def _is_instant(link: ServerLink) -> float:
    return 0.0


@dataclass(slots=True)
class ServerLink:
    """The router's record of one server; changed only on the event loop."""

    name: ServerName
    client: ServerClient
    settings: RouterSettings
    observe: Callable[[ServerName, ModelName, int, float], None]
    start: Callable[[ServerName, ServedModel], bool] = _is_unknown  # of a new model: is it known without a warm-up?
    check: Callable[[ServerLink, ServedModel, Array], str | None] = _is_believed  # of an answer to the known item
    work_s: Callable[[ServerLink], float] = _is_instant  # that it is expected to take for all that it has
    served: tuple[ServedModel, ...] = ()
    in_flight: list[BatchInFlight] = field(default_factory=list)
    last_answer_s: float | None = None
    heard_s: float = -math.inf  # when it last answered anything
    last_run: Run | None = None  # not yet observed, because the next answer may turn out to be part of it
    problem: str | None = "not asked yet"
    is_assumed: bool = False  # what it serves is taken from others until it has said so itself
    calls: int = 0  # groups under way, those that nobody waits for any more included
    health: ServerHealth = field(default_factory=ServerHealth)
    is_suspect: bool = False  # has an overdue group, and has answered nothing since it was sent
    _away_since_s: float | None = None
    _suspended: dict[ModelName, _Suspension] = field(default_factory=dict)
    _recheck: asyncio.Event = field(default_factory=asyncio.Event)
    _known_candidates: _CandidateSets = _NOTHING

    @property
    def is_healthy(self) -> bool:
        """Whether the server answered when last asked, and is not ejected."""
        return self.problem is None and not self.health.is_ejected

    @property
    def is_usable(self) -> bool:
        """Whether it may be sent anything."""
        return self.is_healthy and bool(self.models)

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """What it serves and may be sent."""
        return self._candidate_set().models

    def _candidate_set(self) -> _CandidateSets:
        candidate_set = self._known_candidates
        if candidate_set.served is not self.served or candidate_set.suspended != self._suspended.keys():
            candidate_set = self._known_candidates = _CandidateSets(
                self.served,
                frozenset(self._suspended),
                tuple(m for m in self.served if m.name not in self._suspended),
                {m.name: m.instances for m in self.served},
            )
        return candidate_set

    @property
    def waiting_limit(self) -> int:
        """Groups of one width that may wait there, besides one for each instance that runs.

        One where what it has takes longer than answers and requests travel: it does not idle, and what waits in the
        router can still be shed, narrowed, or given to another server.
        """
        waiting = int((self.settings.in_flight_groups - 1) * self._share())
        if waiting > 1 and len(self.in_flight) > 1 and self.work_s(self) > SHORT_S:
            return 1
        return waiting

    @property
    def batch_limit(self) -> int:
        """Groups it may hold of all widths: as many as of its best-staffed width alone."""
        instances = max(self._candidate_set().instances.values(), default=1)
        return self.waiting_limit + max(1, int(instances * self._share()))

    def _share(self) -> float:
        """Return which part of its budget it is given: all of it, or less just after it came back."""
        if self.health.returned_s is None:
            return 1.0
        return self.health.share(self.settings.ejection, now_s=asyncio.get_running_loop().time())

    def has_room_for(self, model: ServedModel) -> bool:
        """Return whether it may be sent a group of ``model`` now."""
        return self.is_healthy and has_room(
            self.in_flight, model, batch_limit=self.batch_limit, waiting_limit=self.waiting_limit
        )

    def free_batches(self, model: ServedModel) -> int:
        """Return how many groups of ``model`` it may be sent now, by what it holds."""
        of_model = sum([batch.model == model.name for batch in self.in_flight])
        return min(self.batch_limit - len(self.in_flight), model.instances + self.waiting_limit - of_model)

    def models_of(self, family: Family) -> tuple[ServedModel, ...]:
        """Return the widths of a family that it may be sent, ascending."""
        candidate_set = self._candidate_set()
        found = candidate_set.by_family.get(family)
        if found is None:
            found = tuple(sorted((m for m in candidate_set.models if m.family == family), key=lambda m: m.width))
            candidate_set.by_family[family] = found
        return found

    def models_beside(self, family: Family) -> tuple[ServedModel, ...]:
        """Return what it serves of other families, which its load may be of."""
        others = self._candidate_set().others
        found = others.get(family)
        if found is None:
            found = others[family] = tuple(m for m in self.served if m.family != family)
        return found

    def serves(self, name: ModelName) -> bool:
        """Return whether it said so when last asked, whether or not that may be sent now."""
        return name in self._candidate_set().instances

    def model(self, family: Family, width: Width) -> ServedModel | None:
        """Return one width of a family, None when it may not be sent."""
        return next((m for m in self.models_of(family) if m.width == width), None)

    def state(self, family: Family, bound_items: tuple[tuple[ModelName, int], ...]) -> ServerState:
        """Return the server as a policy sees it."""
        return ServerState(
            name=self.name,
            models=self.models_of(family),
            other_models=self.models_beside(family),
            in_flight=tuple(self.in_flight),
            bound_items=bound_items,
            batch_limit=self.batch_limit,
            waiting_limit=self.waiting_limit,
            last_answer_s=self.last_answer_s,
            healthy=self.is_healthy,
        )

    def finish(self, batch: BatchInFlight, *, now_s: float) -> float:
        """Note that a group was answered, and observe how long the server took for it; return that."""
        instances = self._candidate_set().instances
        # Equal groups are interchangeable, so the first that equals it will do.
        at = self.in_flight.index(batch)
        held = mark_begun(self.in_flight, instances, since_s=self.last_answer_s)
        own_began_s = held.pop(at).began_s
        # Without an instance of its own it followed the one before it, so it began when that was answered.
        began_s = max(batch.sent_s, self.last_answer_s or batch.sent_s) if own_began_s is None else own_began_s
        run = Run(batch.model, batch.items, began_s, now_s)
        merged = None
        if self.last_run and own_began_s is None:  # two that had an instance each were not joined
            merged = merge_runs(self.last_run, run, later_sent_s=batch.sent_s)
        if self.last_run and not merged:
            self._observe_run(self.last_run)
        self.last_run, self.last_answer_s, self.heard_s = merged or run, now_s, now_s
        self.health = self.health.after_success()
        self.in_flight[:] = [batch, *mark_begun(held, instances, since_s=now_s)]  # the caller removes the first equal
        if not held:  # nothing is left that could have run with it
            self._observe_run(self.last_run)
            self.last_run = None
        return now_s - began_s

    def _observe_run(self, run: Run) -> None:
        self.observe(self.name, run.model, run.items, run.ended_s - run.began_s)

    def note_failure(self, model: ServedModel, error: SlimError) -> None:
        """Take out what a failed group shows to be broken, and look again at once."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(error, ServerUnavailableError):
            self._note_problem(str(error))
            if isinstance(error, StalledServerError):
                for served in self.served:
                    self._suspended.setdefault(served.name, _Suspension(failures=1))
        elif isinstance(error, ModelNotFoundError):
            self.served = tuple(m for m in self.served if m.name != model.name)
        # The model itself failed; a full queue or a late answer is no such sign.
        elif type(error) in (TransientError, WrongAnswerError):
            log.warning("model %s on %s is out: %s", model.name, self.name, error)
            self._suspended.setdefault(model.name, _Suspension()).extend(now_s)
        self._recheck.set()

    def note_sign_of_life(self) -> None:
        """Look at once whether a server that was given up has come back."""
        self._recheck.set()

    def eject(self, settings: EjectionSettings, *, now_s: float) -> None:
        """Leave it out for a time, then until its models have answered blank items."""
        self.health = self.health.ejected(settings, now_s=now_s)
        for served in self.served:
            self._suspended.setdefault(served.name, _Suspension())

    def readmit(self, *, now_s: float) -> None:
        """End its ejection; the models are asked at once."""
        self.health = self.health.returned(now_s=now_s)
        self._recheck.set()

    async def refresh(self) -> None:
        """Ask the server what it serves, try what is new or was broken, and note whether it answered; never raises."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                served = await self.client.served_models()
            self._note_heard()
            await self._try_suspended(served)
        except (SlimError, TimeoutError) as exc:
            self._note_problem(str(exc) or "no answer in time, see connect_timeout_s and group_timeout_s")
        except Exception as exc:
            log.exception("asking server %s failed unexpectedly", self.name)
            self._note_problem(f"{type(exc).__name__}: {exc}")
        else:
            if served != self.served:  # the same tuple for as long as it serves the same, for whoever compares
                self.served = served
            self.is_assumed = False
            if self.problem is not None:
                self._note_return()

    def _note_heard(self) -> None:
        self.heard_s = asyncio.get_running_loop().time()

    def _note_problem(self, problem: str) -> None:
        if self.problem is None:
            log.warning("server %s is gone: %s", self.name, problem)
            self._away_since_s = asyncio.get_running_loop().time()
        self.problem = problem

    def _note_return(self) -> None:
        log.info("server %s serves %d models", self.name, len(self.served))
        now_s = asyncio.get_running_loop().time()
        if self._away_since_s is not None and now_s - self._away_since_s >= _BLIP_S and not self.health.is_ejected:
            self.health = self.health.returned(now_s=now_s)
        self.problem, self.is_suspect = None, False

    async def _try_suspended(self, served: tuple[ServedModel, ...]) -> None:
        """Run new and formerly broken models on blank items; those that answer may be sent from then on."""
        clock = asyncio.get_running_loop().time
        names = {m.name for m in served}
        self._suspended = {name: why for name, why in self._suspended.items() if name in names}
        known = (
            set() if self.is_assumed else {(m.name, m.sha256) for m in self.served}
        )  # another instance count makes no new model
        for model in served:
            is_new = (model.name, model.sha256) not in known
            if is_new and not self.start(self.name, model) and self.settings.warm_up:
                self._suspended.setdefault(model.name, _Suspension())
            suspension = self._suspended.get(model.name)
            if suspension is None or self.health.is_ejected or clock() < suspension.until_s:
                continue
            try:
                await self._warm_up(model)
                await self._check_known(model)
            except ServerUnavailableError:
                raise
            except SlimError as exc:
                suspension.extend(clock())
                log.warning("model %s on %s does not answer blank items: %s", model.name, self.name, exc)
            else:
                del self._suspended[model.name]

    async def _warm_up(self, model: ServedModel) -> None:
        """Run a model on blank items, each batch size once unmeasured and once measured."""
        clock = asyncio.get_running_loop().time
        for items in sorted({1, min(_WARM_UP_ITEMS, model.max_batch_size)}):
            blank = blank_batch(model.input, items)
            if blank is None:
                return
            for is_measured in (False, True):
                began_s = clock()
                # Only the waiting ends in time; the client lets the call itself finish.
                async with asyncio.timeout(self.settings.group_timeout_s):
                    await self.client.infer_batch(model, blank)
                self._note_heard()
                if is_measured:
                    self.observe(self.name, model.name, items, clock() - began_s)

    async def ask_known(self, model: ServedModel, *, items: int) -> Array:
        """Return the model's answer to the known item, ``items`` times.

        Raises:
            SlimError: as ServerClient.infer_batch.
            TimeoutError: after ``group_timeout_s``; the call itself goes on.
        """
        known = known_batch(model.input, items)
        if known is None:
            raise PermanentError(f"the input of {model.name} leaves its shape open, so it has no known item")
        async with asyncio.timeout(self.settings.group_timeout_s):
            answer = await self.client.infer_batch(model, known)
        self._note_heard()
        return answer

    def suspend(self, model: ServedModel) -> None:
        """Take a model out until it has answered right."""
        self._suspended.setdefault(model.name, _Suspension()).extend(asyncio.get_running_loop().time())
        self._recheck.set()

    async def _check_known(self, model: ServedModel) -> None:
        """Raise WrongAnswerError when a model answers the known item wrong, alone or in a group."""
        for items in sorted({1, min(_WARM_UP_ITEMS, model.max_batch_size)}):
            if self.settings.probes is None or known_batch(model.input, items) is None:
                return
            problem = self.check(self, model, await self.ask_known(model, items=items))
            if problem is not None:
                raise WrongAnswerError(problem)

    async def watch(self, changed: Callable[[], None], returned: Callable[[ServerName], None]) -> None:
        """Refresh for ever, calling ``changed`` after each time, and ``returned`` when it was out and is not."""
        while True:
            was_usable = self.is_usable
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._recheck.wait()
            except TimeoutError:
                pass
            self._recheck.clear()
            was_usable = was_usable and self.is_usable
            await self.refresh()
            if self.is_usable and not was_usable:
                returned(self.name)
            changed()

    def _pause_s(self) -> float:
        """Return how long to wait before looking again: a period, or until a suspended model may be asked."""
        if not self.is_healthy:
            return _RECHECK_S
        now_s = asyncio.get_running_loop().time()
        waits_s = [s.until_s - now_s for s in self._suspended.values()]
        return max(0.05, min([self.settings.discovery_period_s, *waits_s]))
