"""The servers of a router: their links, what is known of their speed, and who looks after them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.policies import CandidateSet
from orchestrator.profile import EnergyTable, LatencyTable
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Array, BatchKey
from orchestrator.router.servers.ejection import Member, TimedRun, plan_ejections
from orchestrator.router.servers.probing import Prober
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.router.servers.server_link import ServerClient, ServerLink
from orchestrator.snapshot import BatchInFlight, Family, ModelName, ServedModel, ServerName, Width

log = logging.getLogger(__name__)

_LEAVING_LOOK_S = 0.1


class Fleet:
    """All servers of one router; changed only on the event loop.

    Args:
        settings: of the router.
        clients: by name of server.
        observer: is told of ejections.
        starts: what is known of models before they were run.

    Attributes:
        settings: as above.
        links: by name of server, ascending.
        latency: what groups are expected to take, from all that was observed so far.
        energy: what groups cost in joules, as far as the profile knows.
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
        self._changed: Callable[[], None] = _do_nothing
        self.links = {name: self._link(name, client) for name, client in sorted(clients.items())}
        self._prober = Prober(lambda: self.links.values(), observer)
        self._probing: asyncio.Task[None] | None = None
        self._watchers: dict[ServerName, asyncio.Task[None]] = {}
        self._leaving: dict[asyncio.Task[None], ServerLink] = {}
        self._is_open = False
        self._readmissions: dict[ServerName, asyncio.TimerHandle] = {}

    def _link(self, name: ServerName, client: ServerClient) -> ServerLink:
        return ServerLink(name, client, self.settings, self._observe, self._start, self._check, self.expected_s)

    def _check(self, link: ServerLink, model: ServedModel, answer: Array) -> str | None:
        probes = self.settings.probes
        return None if probes is None else self._prober.check(link, model, answer, probes)

    async def open(self, changed: Callable[[], None]) -> None:
        """Ask all servers what they serve, then look after them until ``close``.

        Args:
            changed: called whenever something may be sent that could not be sent before.

        Raises:
            ServerUnavailableError: when no server serves anything.
        """
        self._changed = changed
        await asyncio.gather(*(link.refresh() for link in self.links.values()))
        if not any(link.served for link in self.links.values()):
            raise ServerUnavailableError(
                f"no server serves a slimmable family ({self.describe()}); "
                "check the addresses in fleet.yaml and the servers' repositories",
                executed=False,
            )
        self._is_open = True
        self._probing = asyncio.create_task(self._prober.run(lambda: self.settings.probes))
        for link in self.links.values():
            self._watch(link)

    def _watch(self, link: ServerLink) -> None:
        self._watchers[link.name] = asyncio.create_task(link.watch(self._changed, self._observer.on_readmission))

    async def stop(self) -> None:
        """Look after them no longer."""
        for timer in self._readmissions.values():
            timer.cancel()
        self._is_open = False
        watchers = [*self._watchers.values(), *self._leaving, *([self._probing] if self._probing else [])]
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    async def close(self, *, drain_s: float) -> None:
        """Release all connections, after waiting at most so long for calls that nobody else waits for."""
        links = [*self.links.values(), *self._leaving.values()]
        await asyncio.gather(*(link.client.close(drain_s=drain_s) for link in links), return_exceptions=True)

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
        assumed = {model.name: model for link in self.links.values() for model in link.served}
        self.settings, self._starts = settings, starts
        for name in closed:
            self._leave(name)
        for link in self.links.values():
            link.settings = settings
        for name, client in opened.items():
            self.links[name] = link = self._link(name, client)
            link.served, link.is_assumed = tuple(assumed.values()), True
            log.info("server %s has joined", name)
            if self._is_open:
                link.note_sign_of_life()  # so that it is asked at once
                self._watch(link)
        self.links = {name: self.links[name] for name in sorted(self.links)}
        self._changed()

    def _leave(self, name: ServerName) -> None:
        link = self.links.pop(name)
        self.latency = self.latency.without(name)
        link.observe = _ignore  # another machine may go by its name
        timer = self._readmissions.pop(name, None)
        if timer is not None:
            timer.cancel()
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.cancel()
        log.info("server %s leaves; %d groups are still to be answered", name, link.calls)
        task = asyncio.create_task(self._see_off(link, watcher))
        self._leaving[task] = link
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _see_off(self, link: ServerLink, watcher: asyncio.Task[None] | None) -> None:
        """Close a connection once nothing is under way on it: closing it earlier would cancel that on the server."""
        while link.calls > 0:
            await asyncio.sleep(_LEAVING_LOOK_S)
        if watcher is not None:
            await asyncio.gather(watcher, return_exceptions=True)
        await link.client.close()
        log.info("server %s has left", link.name)

    # --- what they serve ---

    def models(self, family: str | None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: when the family is unknown, or not named although there are several.
        """
        known: dict[Family, dict[Width, ServedModel]] = {}
        for link in self.links.values():
            for model in link.served:
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

    def describe(self) -> str:
        """Return in a line how each server is."""
        return "; ".join(f"{link.name}: {link.problem or f'{len(link.models)} models'}" for link in self.links.values())

    # --- how long they take ---

    def _observe(self, server: ServerName, model: ModelName, items: int, service_s: float) -> None:
        link = self.links.get(server)
        if link is not None:
            self._judge_run(link, model, items, service_s)
        self.latency = self.latency.observe(server, model, items, service_s)

    def _start(self, server: ServerName, model: ServedModel) -> bool:
        self.latency, self.energy, has_entry = self._starts.begin(server, model, self.latency, self.energy)
        return has_entry

    def _judge_run(self, link: ServerLink, model: ModelName, items: int, service_s: float) -> None:
        expected_s = self._line_s(link, model, items)
        if expected_s > 0:
            run = TimedRun(asyncio.get_running_loop().time(), service_s, expected_s)
            link.health = link.health.after_run(run, self.settings.ejection)
            least_s = max(expected_s, self.settings.ejection.latency_floor_ms / 1e3)
            if service_s > self.settings.ejection.latency_factor * least_s:  # else it can't have become an outlier
                self._eject_outliers()

    def _line_s(self, link: ServerLink, name: ModelName, items: int) -> float:
        fit = self.latency.fits.get((link.name, name))
        if fit is not None and link.serves(name):
            slope_s, intercept_s = fit.line()
            return slope_s * items + intercept_s
        model = next((m for m in link.served if m.name == name), None)
        if model is None:
            return 0.0
        slope_s, intercept_s = self.latency.line(link.name, model, link.served)
        return slope_s * items + intercept_s

    def expected_s(self, link: ServerLink, *more: BatchInFlight) -> float:
        """Return how long a server takes for all that it has and ``more``, one after another; 0 when unknown."""
        return sum(self._line_s(link, batch.model, batch.items) for batch in (*link.in_flight, *more))

    def elsewhere_s(self, key: BatchKey, items: int) -> float | None:
        """Return when a server that ``key`` does not avoid would have answered; None when there is none.

        It is the quickest one, at the width that it is quickest at.
        """
        best_s: float | None = None
        for link in self.links.values():
            if not link.is_healthy or link.is_suspect or link.name in key.avoid:
                continue
            held_s = self.expected_s(link)
            for model in link.models_of(key.family):
                if model.width in key.widths and model.accuracy >= key.min_accuracy and items <= model.max_batch_size:
                    takes_s = held_s + self._line_s(link, model.name, items)
                    best_s = takes_s if best_s is None else min(best_s, takes_s)
        return best_s

    # --- who is left out ---

    def has_lost(self, key: BatchKey) -> bool:
        """Return whether requests bound to a server have to be given to another, because it has gone or hangs."""
        assert key.bound_to is not None  # or there is nothing to ask
        server, width = key.bound_to
        link = self.links.get(server)
        if link is None or not link.is_healthy or link.model(key.family, width) is None:
            return True
        return link.is_suspect and self.elsewhere_s(key.elsewhere(server), 1) is not None

    @property
    def suspects(self) -> frozenset[ServerName]:
        """Servers that have an overdue group and have answered nothing since it was sent."""
        return frozenset(name for name, link in self.links.items() if link.is_suspect)

    def stale(self, candidate_set: CandidateSet, *, now_s: float) -> str | None:
        """Return what is known too little of to be chosen by just any policy, None when there is nothing such."""
        since_s = now_s - self.settings.stale_after_s
        old = {link.name for link in self.links.values() if link.heard_s < since_s}  # hardly ever any
        if not old or not (old := old & {candidate.server for candidate in candidate_set.candidates}):
            return None
        return f"nothing heard of {', '.join(sorted(old))} for more than {self.settings.stale_after_s:g} s"

    def note_failure(self, link: ServerLink, sent: BatchInFlight) -> None:
        """Note that an attempt failed, of which the server, not its load, is to blame."""
        now_s = asyncio.get_running_loop().time()
        link.health = link.health.after_failure(sent_s=sent.sent_s, now_s=now_s)
        if link.health.failures_in_row >= self.settings.ejection.failures_in_row:
            self._eject_outliers()

    def _eject_outliers(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self.settings.ejection
        members = self._members(self.links.values())
        for ejection in plan_ejections(members, settings, now_s=loop.time()):
            link = self.links[ejection.server]
            link.eject(settings, now_s=loop.time())
            until_s = link.health.ejected_until_s
            assert until_s is not None  # eject sets it
            log.warning("server %s is out for %.1f s: %s", link.name, until_s - loop.time(), ejection.reason)
            self._observer.on_ejection(link.name, ejection.reason)
            self._readmissions[link.name] = loop.call_at(until_s, self._readmit, link)
        self._changed()

    def _readmit(self, link: ServerLink) -> None:
        self._readmissions.pop(link.name, None)
        link.readmit(now_s=asyncio.get_running_loop().time())
        self._changed()

    def _members(self, links: Iterable[ServerLink]) -> dict[ServerName, Member]:
        rates = {link.name: self._capacity_rps(link) for link in links}
        known = [rate for rate in rates.values() if rate is not None]
        mean = sum(known) / len(known) if known else 1.0
        return {
            link.name: Member(link.health, mean if (rate := rates[link.name]) is None else rate, link.is_healthy)
            for link in links
        }

    def _capacity_rps(self, link: ServerLink) -> float | None:
        """Return the items a second of full batches at its quickest width; None when nothing is known of it."""
        best: float | None = None
        for model in link.served:
            takes_s = self._line_s(link, model.name, model.max_batch_size)
            if takes_s > 0:
                best = max(best or 0.0, model.instances * model.max_batch_size / takes_s)
        return best


def _do_nothing() -> None:
    pass


def _ignore(server: ServerName, model: ModelName, items: int, service_s: float) -> None:
    pass
