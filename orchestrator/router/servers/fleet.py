"""The servers of a router: who belongs to it, what they serve, how long they take, and who is left out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from orchestrator.background import BackgroundTasks
from orchestrator.config import RouterSettings
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    ServerUnavailableError,
    SlimError,
    TransientError,
)
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.request_options import RequestOptions
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import BatchKey
from orchestrator.router.servers.connection import ServerClient, ServerConnection
from orchestrator.router.servers.ejection import plan_ejections
from orchestrator.router.servers.health import TimedRun
from orchestrator.router.servers.probing import Prober
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.router.servers.watch import ServerWatch
from orchestrator.snapshot import BatchInFlight, Family, ModelName, ServedModel, ServerName, Width
from orchestrator.triton.infer_wire import Tensors
from orchestrator.triton.trial_items import blank_batch

log = logging.getLogger(__name__)

_DOUBT_PAUSE_S = 1.0  # between two probes of a model that is doubted: clients can make it look wrong
_MOST_REASONS = 4  # that a caller is told
_LIFE_S = 0.05  # between two models that are tried on a suspect server, unless one has answered
_LEAVING_LOOK_S = 0.1  # between two looks whether a server that leaves has finished


class Fleet:
    """All servers of one router; changed only on the event loop.

    Attributes:
        servers: The servers by name, ascending.
        latency: What batches are expected to take, from all that was observed so far.
        energy: What batches cost in joules, as far as the profile knows.
    """

    def __init__(
        self,
        settings: RouterSettings,
        clients: Mapping[ServerName, ServerClient],
        observer: RouterObserver,
        starts: ProfileStarts,
    ) -> None:
        self.settings = settings
        self.latency = LatencyTable()
        self.energy = EnergyTable()
        self._starts = starts
        self._observer = observer
        self._changed: Callable[[], None] = lambda: None
        self._driven: frozenset[ServerName] | None = None  # all
        self.servers = {name: self._connect(name, client) for name, client in sorted(clients.items())}
        self._prober = Prober(lambda: self.servers.values(), observer, lambda: self._changed())
        self._background = BackgroundTasks(observer.on_background_failure)
        self._doubts: dict[tuple[ServerName, ModelName], tuple[float, asyncio.Task[None]]] = {}
        self._trials: dict[ServerName, asyncio.Task[None]] = {}
        self._watches: dict[ServerName, asyncio.Task[None]] = {}
        self._leaving: dict[asyncio.Task[None], ServerConnection] = {}
        self._is_open = False
        self._readmissions: dict[ServerName, asyncio.TimerHandle] = {}

    async def open(self, changed: Callable[[], None], *, requires_server: bool = True) -> None:
        """Ask all servers what they serve, then look after them until ``close``.

        ``changed`` is called whenever something may be sent that could not be sent before.

        Raises:
            ServerUnavailableError: when no server serves anything although one is required.
        """
        self._changed = changed
        await asyncio.gather(*(self._watch_of(server).refresh() for server in self.servers.values()))
        if not any(server.served for server in self.servers.values()):
            problem = f"no server serves a slimmable family ({self.describe()[0]}); "
            remedy = "check the addresses in fleet.yaml and the servers' repositories"
            if requires_server:
                raise ServerUnavailableError(problem + remedy, executed=False)
            log.warning("%sone that does is used as soon as it answers, else %s", problem, remedy)
        self._is_open = True
        self._background.start("probing", lambda: self._prober.run(lambda: self.settings.probes))
        for server in self.servers.values():
            self._watch(server)

    async def close(self, *, drain_s: float) -> None:
        """Look after the servers no longer, and release all connections.

        Calls that nobody else waits for are waited for, at most ``drain_s``.
        """
        for timer in self._readmissions.values():
            timer.cancel()
        self._is_open = False
        servers = [*self.servers.values(), *self._leaving.values()]
        await self._background.stop()
        await asyncio.gather(*(server.client.close(drain_s=drain_s) for server in servers), return_exceptions=True)

    def _connect(self, name: ServerName, client: ServerClient) -> ServerConnection:
        return ServerConnection(name, client, self.settings, self.work_s, is_driven=self._drives(name))

    def _watch_of(self, server: ServerConnection) -> ServerWatch:
        return ServerWatch(server, self._begin_model, self._observe, self._prober.verify)

    def _watch(self, server: ServerConnection) -> None:
        watch, returned = self._watch_of(server), lambda: self._observer.on_readmission(server.name)
        self._watches[server.name] = self._background.start(
            "watching servers", lambda: watch.run(self._changed, returned)
        )

    # --- who belongs to it ---

    def reconfigure(
        self,
        settings: RouterSettings,
        starts: ProfileStarts,
        *,
        opened: Mapping[ServerName, ServerClient],
        closed: Iterable[ServerName],
    ) -> None:
        """Go on with other settings and servers; one that is in both has moved.

        A server that leaves gets nothing more at once, finishes what it has, and is then let go. A new one is taken
        to serve what the others did until it has been asked, so that requests wait for it and are not refused.
        """
        assumed = {model.name: model for server in self.servers.values() for model in server.served}
        self.settings, self._starts = settings, starts
        for name in closed:
            self._leave(name)
        for server in self.servers.values():
            server.settings = settings
        for name, client in opened.items():
            self.servers[name] = server = self._connect(name, client)
            server.served, server.is_assumed = tuple(assumed.values()), True
            log.info("server %s has joined", name)
            if self._is_open:
                server.check_soon.set()
                self._watch(server)
        self.servers = {name: self.servers[name] for name in sorted(self.servers)}
        self._changed()

    def _leave(self, name: ServerName) -> None:
        server = self.servers.pop(name)
        self.latency = self.latency.without(name)
        timer = self._readmissions.pop(name, None)
        if timer is not None:
            timer.cancel()
        watching = self._watches.pop(name, None)
        if watching is not None:
            watching.cancel()
        log.info("server %s leaves; %d batches are still to be answered", name, server.calls)
        task = self._background.start("seeing servers off", lambda: self._see_off(server, watching))
        self._leaving[task] = server
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _see_off(self, server: ServerConnection, watching: asyncio.Task[None] | None) -> None:
        """Close a connection once nothing is under way on it: closing it earlier would cancel that on the server."""
        while server.calls > 0:
            await asyncio.sleep(_LEAVING_LOOK_S)
        if watching is not None:
            await asyncio.gather(watching, return_exceptions=True)
        await server.client.close()
        log.info("server %s has left", server.name)

    def answers(self, name: str) -> bool:
        """Return whether a server answered when it was last asked."""
        server = self.servers.get(ServerName(name))
        return server is not None and server.health.problem is None and not server.health.is_suspect

    # --- which of them this router drives ---

    def drive(self, names: Collection[ServerName] | None) -> None:
        """Send batches to these servers only, whether they are there yet or not; None: to all."""
        self._driven = None if names is None else frozenset(names)
        for server in self.servers.values():
            server.is_driven = self._drives(server.name)
        self._changed()

    def _drives(self, name: ServerName) -> bool:
        return self._driven is None or name in self._driven

    def driven(self) -> dict[ServerName, ServerConnection]:
        """Return the servers that this router sends batches to, by name, ascending."""
        return {name: server for name, server in self.servers.items() if server.is_driven}

    def is_elsewhere(self, key: BatchKey) -> bool:
        """Return whether servers answer what a key asks for, all of them driven by other routers."""
        if self._driven is None:
            return False
        suiting = [
            server
            for server in self.servers.values()
            if server.health.is_healthy
            and any(m.width in key.widths and m.accuracy >= key.min_accuracy for m in server.models_of(key.family))
        ]
        return bool(suiting) and not any(server.is_driven for server in suiting)

    def suiting(self, options: RequestOptions) -> list[ServerName]:
        """Return the servers that answer and have a width that a request allows, whoever drives them."""
        return [name for name, server in self.servers.items() if self._suits(server, options)]

    def drives_for(self, options: RequestOptions) -> bool:
        """Return whether this router drives one of them."""
        return any(server.is_driven and self._suits(server, options) for server in self.servers.values())

    def _suits(self, server: ServerConnection, options: RequestOptions) -> bool:
        if not server.health.is_healthy or server.health.is_suspect:
            return False
        family, width, least = options.family or self.settings.family, options.width, options.min_accuracy
        models = server.models if family is None else server.models_of(Family(family))
        return any(width in (None, m.width) and (least is None or m.accuracy >= least) for m in models)

    # --- what they serve ---

    def models(self, family: str | None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: when the family is unknown, or not named although there are several.
        """
        known: dict[Family, dict[Width, ServedModel]] = {}
        for server in self.servers.values():
            for model in server.served:
                known.setdefault(model.family, {}).setdefault(model.width, model)
        wanted = family or self.settings.family
        if wanted is None:
            if len(known) != 1:
                raise ConfigError(f"name the family; the fleet serves {', '.join(sorted(known)) or 'none'}")
            wanted = next(iter(known))
        widths = known.get(Family(wanted))
        if widths is None:
            raise ConfigError(f"unknown family {wanted!r}; the fleet serves {', '.join(sorted(known)) or 'none'}")
        return tuple(widths[w] for w in sorted(widths))

    def describe(self) -> tuple[str, bool]:
        """Return in a line how each server is, and whether any of them answers."""
        servers = self.servers.values()
        foreign = "driven by another gateway"
        states = (
            (s.name, s.health.problem or (f"{len(s.models)} models" if s.is_driven else foreign)) for s in servers
        )
        told = "; ".join(f"{name}: {state.removeprefix(f'server {name}: ')}" for name, state in states)
        return told, any(server.takes_batches for server in servers)

    # --- how long they take ---

    def finish(self, server: ServerConnection, batch: BatchInFlight, *, now_s: float) -> float:
        """Note that a batch was answered; return how long the server took for it, in seconds."""
        took_s, runs = server.finish(batch, now_s=now_s)
        for run in runs:
            self._observe(server, run.model, run.items, run.ended_s - run.began_s)
        return took_s

    def judge(self, server: ServerConnection, model: ModelName, ratio: float, allowed_ratio: float) -> None:
        """Note that an answer took ``ratio`` times what was expected, and that ``allowed_ratio`` would have done."""
        if self.servers.get(server.name) is server:
            now_s, prior = asyncio.get_running_loop().time(), self.settings.slack_margin
            self.latency = self.latency.judge(server.name, model, ratio, allowed_ratio, prior=prior, now_s=now_s)

    def _observe(self, server: ServerConnection, model: ModelName, items: int, service_s: float) -> None:
        if self.servers.get(server.name) is not server:  # it has left, and another machine may go by its name
            return
        expected_s, settings = self._line_s(server, model, items), self.settings.ejection
        if expected_s > 0:
            run = TimedRun(asyncio.get_running_loop().time(), service_s, expected_s)
            server.health.note_run(run, settings)
            if service_s > settings.latency_factor * max(expected_s, settings.latency_floor_ms / 1e3):
                self._eject_outliers()  # below that it can't have become one
        self.latency = self.latency.observe(server.name, model, items, service_s)

    def _begin_model(self, server: ServerConnection, model: ServedModel) -> bool:
        self.latency, self.energy, has_entry = self._starts.begin(server.name, model, self.latency, self.energy)
        return has_entry

    def _line_s(self, server: ServerConnection, name: ModelName, items: int) -> float:
        """Return how long a server is expected to take for a batch; 0 when nothing is known of that."""
        model = server.find(name)
        if model is None:
            return 0.0
        per_item_s, fixed_s = self.latency.line(server.name, model, server.served)
        return per_item_s * items + fixed_s

    def work_s(self, server: ServerConnection, model: ModelName | None = None) -> float:
        """Return how long a server takes for all that it has, one batch after another; 0 when unknown.

        See ``ServerConnection.held`` for ``model``.
        """
        return sum(self._line_s(server, batch.model, batch.items) for batch in server.held(model))

    def elsewhere_s(self, key: BatchKey, items: int) -> float | None:
        """Return when a server that ``key`` does not avoid would have answered; None when there is none.

        It is the quickest one, at its quickest width; none that is suspect, but the others of a width suspect alone.
        """
        best_s: float | None = None
        for server in self.servers.values():
            health = server.health
            if not server.takes_batches or health.is_suspect or (server.name in key.avoid and not health.suspects):
                continue
            held_s = self.work_s(server)
            for model in server.models_of(key.family):
                if model.name in health.suspects:
                    continue
                if model.width in key.widths and model.accuracy >= key.min_accuracy and items <= model.max_batch_size:
                    takes_s = held_s + self._line_s(server, model.name, items)
                    best_s = takes_s if best_s is None else min(best_s, takes_s)
        return best_s

    # --- who is left out ---

    def has_lost(self, key: BatchKey) -> bool:
        """Return whether requests bound to a server have to be given to another, because it has gone or hangs."""
        assert key.bound_to is not None  # or there is nothing to ask
        name, width = key.bound_to
        server = self.servers.get(name)
        if server is None or not server.takes_batches or (model := server.model(key.family, width)) is None:
            return True
        health = server.health
        if health.is_suspect and self.elsewhere_s(key.elsewhere(name), 1) is not None:
            return True
        return model.name in health.suspects and self.elsewhere_s(key, 1) is not None

    @property
    def suspects(self) -> frozenset[ServerName]:
        """Servers that have an overdue batch and have answered nothing since it was sent."""
        return frozenset(name for name, server in self.servers.items() if server.health.is_suspect)

    @property
    def suspect_models(self) -> frozenset[tuple[ServerName, ModelName]]:
        """Models that have an overdue batch and have answered nothing since, on servers that have."""
        servers = [server for server in self.servers.values() if not server.health.is_suspect]
        return frozenset([(server.name, model) for server in servers for model in server.health.suspects])

    def outage(self, key: BatchKey, by_s: float) -> str | None:
        """Return in words why nobody is expected to answer by then what a key asks for; None when somebody is."""
        now_s = asyncio.get_running_loop().time()
        reasons: dict[str, None] = {}
        for server in self.servers.values():
            health = server.health
            for model in server.served:
                if model.family != key.family or model.width not in key.widths or model.accuracy < key.min_accuracy:
                    continue
                if not server.is_driven:
                    reasons[f"{server.name} is driven by another gateway"] = None
                    continue
                back_s = health.back_s(model.name, now_s=now_s)
                if back_s is None or back_s <= by_s:
                    return None
                what = server.name if health.is_suspect or not health.is_healthy else f"{model.name} on {server.name}"
                state = "is out" if health.is_healthy else "can't be reached"
                if (since_s := health.silent_since_s(model.name)) is not None:
                    state = f"has answered nothing for {now_s - since_s:.1f} s"
                reasons[f"{what} {state}"] = None
        told = list(reasons)[:_MOST_REASONS]
        if len(reasons) > len(told):
            told.append(f"and {len(reasons) - len(told)} more")
        return ", ".join(told) or None

    def stale(self, candidate_set: CandidateSet, *, now_s: float) -> str | None:
        """Return what is known too little of to be chosen by just any policy, None when there is nothing such."""
        since_s = now_s - self.settings.stale_after_s
        old = {server.name for server in self.servers.values() if server.health.heard_s < since_s}  # hardly ever any
        if not old or not (old := old & {candidate.server for candidate in candidate_set.candidates}):
            return None
        return f"nothing heard of {', '.join(sorted(old))} for more than {self.settings.stale_after_s:g} s"

    def note_overdue(self, server: ServerConnection, model: ModelName, sent_s: float) -> None:
        """Note that a batch that was sent at ``sent_s`` is overdue.

        Where its server has answered nothing since, the other models are tried, for it may be this one alone.
        """
        server.health.note_overdue(model, sent_s=sent_s)
        if server.health.is_suspect and server.name not in self._trials:
            self._trials[server.name] = self._background.start("looking for life", lambda: self._look_for_life(server))
            self._trials[server.name].add_done_callback(lambda _: self._trials.pop(server.name, None))

    def is_tried(self, name: ServerName) -> bool:
        """Return whether a server that is suspect is just being tried; if it lives, that is soon known."""
        return name in self._trials

    async def _look_for_life(self, server: ServerConnection) -> None:
        """Try the models of a server that are not suspect, the narrowest first, until any has answered something."""
        tried: list[asyncio.Task[None]] = []
        for model in sorted(server.models, key=lambda model: model.width):
            blank = blank_batch(model, 1)
            if blank is None or model.name in server.health.suspects:
                continue
            trial = partial(self._try_for_life, server, model, blank)
            tried.append(self._background.start("looking for life", trial))
            await asyncio.wait(tried, timeout=_LIFE_S, return_when=asyncio.FIRST_COMPLETED)
            if not server.health.is_suspect:
                return

    async def _try_for_life(self, server: ServerConnection, model: ServedModel, blank: Tensors) -> None:
        try:
            await server.infer(model, blank)
        except (ServerUnavailableError, TimeoutError):
            return
        except SlimError as exc:
            log.debug("trying %s on %s: %s", model.name, server.name, exc)
        server.health.is_suspect = False
        self._changed()

    def note_failure(self, server: ServerConnection, model: ServedModel, sent_s: float, error: SlimError) -> None:
        """Note what a batch that was sent at ``sent_s`` and failed says of its server."""
        # Such errors blame the server, not its load.
        if isinstance(error, TransientError) and not isinstance(error, CapacityError | DeadlineError):
            now_s = asyncio.get_running_loop().time()
            server.health.note_failure(sent_s=sent_s, now_s=now_s)
            if server.health.failures_in_row >= self.settings.ejection.failures_in_row:
                self._eject_outliers()
        server.note_failure(model, error)

    def doubt(self, server: ServerConnection, model: ServedModel) -> bool:
        """Have a model probed whose answer looks wrong; return whether it may be its fault, as far as is known yet."""
        key, now_s = (server.name, model.name), asyncio.get_running_loop().time()
        if key not in self._doubts or now_s >= self._doubts[key][0] + _DOUBT_PAUSE_S:
            self._doubts[key] = now_s, self._background.start("probing", lambda: self._prober.ask(server, model))
        return not self._doubts[key][1].done() or model.name in server.health.suspended

    def _eject_outliers(self) -> None:
        loop, settings = asyncio.get_running_loop(), self.settings.ejection
        fleet = {name: server.health for name, server in self.driven().items()}
        planned = plan_ejections(fleet, self.capacities_rps(), settings, now_s=loop.time())
        for name, reason in planned.items():
            server = self.servers[name]
            until_s = server.health.eject([model.name for model in server.served], settings, now_s=loop.time())
            log.warning("server %s is out for %.1f s: %s", name, until_s - loop.time(), reason)
            self._observer.on_ejection(name, reason)
            self._readmissions[name] = loop.call_at(until_s, self._readmit, server)
        self._changed()

    def _readmit(self, server: ServerConnection) -> None:
        self._readmissions.pop(server.name, None)
        server.health.readmit(now_s=asyncio.get_running_loop().time())
        server.check_soon.set()
        self._changed()

    def capacities_rps(self) -> dict[ServerName, float]:
        """Return the items a second of each server; one whose capacity is unknown counts as their mean."""
        rates_rps = {name: self._capacity_rps(server) for name, server in self.servers.items()}
        known = [rate_rps for rate_rps in rates_rps.values() if rate_rps > 0]
        mean_rps = sum(known) / len(known) if known else 1.0
        return {name: rate_rps or mean_rps for name, rate_rps in rates_rps.items()}

    def _capacity_rps(self, server: ServerConnection) -> float:
        """Return the items a second of full batches at the quickest width; 0 when nothing is known of it."""
        times_s = [(model, self._line_s(server, model.name, model.max_batch_size)) for model in server.served]
        return max((m.instances * m.max_batch_size / took_s for m, took_s in times_s if took_s > 0), default=0.0)
