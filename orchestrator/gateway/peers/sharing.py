"""What this gateway drives, of a fleet that it shares with its peers, and who else can run a request.

All is decided in ``tick``, some times a second and whenever a peer or a lease has news, from what the peers said last
and from the leases; requests only look at the result. A peer lives while it answers, and a second longer, so that one
lost answer moves nothing; one whose host says that nobody listens there is gone at once. A gateway that stood still
itself has heard nobody either, and believes for another second what it knew.

Servers that nobody keeps a record of go from one gateway to another in two steps: the old driver stops and says so, and
then the new one begins.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from orchestrator.background import BackgroundTasks
from orchestrator.config import ServerSettings
from orchestrator.gateway.peers.leases import Keeper, Lease
from orchestrator.gateway.peers.links import PeerLink
from orchestrator.gateway.peers.report import GatewayReport
from orchestrator.ownership import APART_S, LEASE_S, NOTHING, GatewayName, Plan, plan_drivers
from orchestrator.request_options import RequestOptions
from orchestrator.router import FleetShare
from orchestrator.snapshot import ServerName

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
SILENT_S: Final = 1.0
"""How long a peer that does not answer still counts as living: five looks."""
_STRANDED_S: Final = 3 * LEASE_S
"""How long nobody drives a server before requests for it stop waiting: twice what its going over may take."""
_REPLACED_S: Final = 5.0
"""For which one that is replaced may not have said yet that it ends."""
_LATELY_S: Final = 1.0
"""Over which what callers send is averaged: chance evens out, and it is no longer than a move takes patience."""
_CAPACITY_S: Final = 2.0  # between two looks at the servers' capacities, which take long where there are many models


@dataclass(slots=True, eq=False)
class Sharing:
    """One gateway of several; ``run`` goes on until it is cancelled, then ``leave``.

    Attributes:
        name: This gateway's, which no other has.
        share: What the router drives.
        servers: Returns the servers as they are now.
        keeper_of: Returns who keeps the record of a server's driver; None when nobody does.
        links: Returns the links to peers as they are now.
        is_ending: Returns whether this gateway ends.
        demands: Returns what tenants have asked for here; see GatewayReport.
        version: The version of what runs here.
        on_reports: Called with the reports of all that live, this gateway's included.
    """

    name: GatewayName
    share: FleetShare
    servers: Callable[[], Sequence[ServerSettings]]
    keeper_of: Callable[[ServerSettings], Keeper | None]
    links: Callable[[], Sequence[PeerLink]]
    is_ending: Callable[[], bool] = lambda: False
    demands: Callable[[], Mapping[str, tuple[float, float, float]]] = dict
    version: str = ""
    on_reports: Callable[[Mapping[GatewayName, GatewayReport]], None] = lambda reports: None
    _instance: int = field(default_factory=lambda: random.getrandbits(53))  # a name, no secret
    _background: BackgroundTasks = field(default_factory=BackgroundTasks)
    _leases: dict[ServerName, tuple[ServerSettings, Lease, asyncio.Task[None]]] = field(default_factory=dict)
    _names: dict[ServerName, ServerName] = field(default_factory=dict)  # of the fleet file, by address
    _keys: dict[ServerName, ServerName] = field(default_factory=dict)  # addresses by name
    _capacities_rps: dict[ServerName, float] = field(default_factory=dict)
    _weighed_s: float | None = None
    _come_items: float = 0.0
    _counted_s: float = -math.inf
    _demand_rps: float = 0.0
    _plan: Plan = NOTHING
    _intent: Mapping[ServerName, GatewayName] = field(default_factory=dict)
    _driving: frozenset[ServerName] = frozenset()
    _driven_names: frozenset[ServerName] | None = None
    _undriven_since_s: dict[ServerName, float] = field(default_factory=dict)  # what the plan gives to somebody
    _told_refused: frozenset[ServerName] = frozenset()
    _living: dict[GatewayName, PeerLink] = field(default_factory=dict)
    _ticked_s: float | None = None
    _lenient_until_s: float = 0.0
    _twin_since_s: float | None = None
    _has_drained: bool = False
    _told: Hashable = None
    _told_versions: set[tuple[GatewayName, str]] = field(default_factory=set)

    async def run(self) -> None:
        """Look after the servers that this gateway drives."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    async def hand_over(self, *, within_s: float) -> None:
        """Return once others have taken what this gateway drove, which has drained; at once where nobody could."""
        self._has_drained = True
        self._refresh()
        until_s = asyncio.get_running_loop().time() + within_s
        while self._driving and self._has_taker() and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(TICK_S / 2)

    def _has_taker(self) -> bool:
        return any(link.report is not None and not link.report.has_drained for link in self._living.values())

    @property
    def has_successor(self) -> bool:
        """Whether another gateway goes on when this one has ended."""
        return any(link.report is not None and not link.report.is_ending for link in self._living.values())

    async def leave(self) -> None:
        """Drive nothing any more, and let others have it at once; never raises."""
        await self._background.stop()
        self._ticked_s = None
        self.share.drive(())
        self._driving = frozenset()
        await asyncio.gather(*(lease.give_up() for _, lease, _ in self._leases.values()))

    @property
    def living(self) -> Sequence[GatewayName]:
        """The gateways that live, this one included, ascending."""
        return sorted({self.name, *self._living})

    @property
    def drives(self) -> frozenset[ServerName]:
        """The names of the servers that this gateway drives."""
        return self._driven_names or frozenset()

    def drivers(self) -> Mapping[ServerName, GatewayName]:
        """Return who drives each server, as they say themselves; servers that nobody does are left out."""
        says = {key: name for name, link in self._living.items() if link.report for key in link.report.drives}
        says |= dict.fromkeys(self._driving, self.name)
        return {name: says[key] for name, key in self._keys.items() if key in says}

    def report(self) -> GatewayReport:
        """Return what peers are told."""
        leaves = {
            key
            for key, name in self._names.items()
            if key not in self._driving and (self.share.has_sent(name) or self._is_leaving(key))
        }
        return GatewayReport(
            name=self.name,
            instance=self._instance,
            version=self.version,
            is_ending=self.is_ending(),
            has_drained=self._has_drained,
            backlog_items=self.share.unfinished_items,
            demand_rps=self._demand_rps,
            drives=self._driving,
            leaves=frozenset(leaves),
            capacities_rps=self._capacities_rps,
            plan=self._intent,
            demands=self.demands(),
        )

    def exchange(self, body: bytes) -> bytes:
        """Take the report of a peer that asks, and return this gateway's, both as JSON.

        Raises:
            PermanentError: What it says is no report; one of an earlier version says nothing.
        """
        if body:
            self._hear(GatewayReport.decode(body))
        return self.report().encode()

    def _hear(self, report: GatewayReport) -> None:
        for link in self.links():
            if not link.is_answering:  # perhaps it is this one, and has just begun
                link.ask_now()
            elif link.report is not None and link.report.instance == report.instance:
                has_news = link.report.news != report.news
                link.take(report, at_s=asyncio.get_running_loop().time())
                if has_news:
                    self._refresh()

    def count(self, options: RequestOptions, items: int) -> None:
        """Count a request that a caller of this gateway has sent, whoever will answer it."""
        self._come_items += items * self.share.cost(options)

    def is_local(self, options: RequestOptions) -> bool:
        """Return whether a request is for this gateway's router: it has a server for it, or no gateway has one."""
        if self.share.drives_for(options):
            return True
        suiting = self.share.suiting(options)
        return not suiting or self._are_stranded(suiting)

    def is_stranded(self, options: RequestOptions) -> bool:
        """Return whether there are servers for a request that no gateway has driven for a while, and no others."""
        suiting = self.share.suiting(options)
        return bool(suiting) and self._are_stranded(suiting)

    def _are_stranded(self, names: Sequence[ServerName]) -> bool:
        since_s, undriven = asyncio.get_running_loop().time() - _STRANDED_S, self._undriven_since_s
        keys = (self._keys.get(name) for name in names)
        return all(key is not None and undriven.get(key, math.inf) <= since_s for key in keys)

    def choose(self, options: RequestOptions, avoid: Collection[PeerLink] = ()) -> PeerLink | None:
        """Return the peer that can run a request; None while none can.

        Several have turns by how much they can do, but for those that had clearly more to do when they were last asked.
        Always the one with the least would be wrong: what is known of it is older than its queue.
        """
        names = self.share.suiting(options)
        keys = {self._keys[name] for name in names if name in self._keys}
        suiting = [link for link in self._living.values() if link not in avoid and link.takes(keys)]
        if len(suiting) <= 1:
            return suiting[0] if suiting else None
        least_s, latest_s = min(link.backlog_s for link in suiting), max(link.given_s for link in suiting)
        free = [link for link in suiting if link.backlog_s <= least_s + APART_S]
        for link in free:
            link.given_s = max(link.given_s, latest_s - APART_S)  # one that has come does not catch up
        return min(free, key=lambda link: (link.given_s, link.address))

    def choose_relief(self, options: RequestOptions, *, was_load: bool) -> PeerLink | None:
        """Return a peer that can run a request that was refused here: for load one that has less to do, or None."""
        link = self.choose(options)
        return link if link is not None and (not was_load or link.backlog_s < self.backlog_s) else None

    @property
    def backlog_s(self) -> float:
        """How long the servers that this gateway drives take for what it has."""
        capacity_rps = sum(self._capacities_rps.get(key, 0.0) for key in self._driving)
        return self.share.unfinished_items / capacity_rps if capacity_rps else math.inf

    # --- what it drives ---

    def tick(self) -> None:
        """Take in what peers say now, and drive what this gateway is to drive by that."""
        now_s = asyncio.get_running_loop().time()
        self._look_at_servers(now_s)
        self._weigh_demand(now_s)
        self._living = self._find_living(now_s)
        others = {name: link.report for name, link in self._living.items() if link.report is not None}
        self._tell_versions(others)
        reports = {self.name: self.report(), **others}
        self._follow_plan(reports, now_s=now_s)
        if self.name in others:  # this gateway ends, and is replaced by one of its name
            self._intent = {}
        driven_elsewhere = {key for report in others.values() for key in report.drives | report.leaves}
        driving = set()
        for key, (_, lease, _) in self._leases.items():
            driver = self._intent.get(key)
            lease.want(driver, is_free=key not in driven_elsewhere)
            if driver != self.name or not lease.is_held(now_s=now_s):
                continue
            if not lease.is_unkept or key in self._driving or key not in driven_elsewhere:
                driving.add(key)
        self._drive(frozenset(driving))
        self._note_undriven(self._driving | reports[self.name].leaves | driven_elsewhere, now_s)
        if (news := self.report().news) != self._told:
            self._told = news
            for link in self.links():
                link.ask_now()
        self.on_reports(reports)

    def _weigh_demand(self, now_s: float) -> None:
        passed_s = now_s - self._counted_s
        if passed_s < TICK_S / 2:
            return  # it is for news; what has come counts the next time
        self._demand_rps += (1 - math.exp(-passed_s / _LATELY_S)) * (self._come_items / passed_s - self._demand_rps)
        self._come_items, self._counted_s = 0.0, now_s

    def _refresh(self) -> None:
        if self._ticked_s is not None:  # else it has not begun, or has left
            self.tick()

    def _drive(self, driving: frozenset[ServerName]) -> None:
        names = frozenset(self._names[key] for key in driving)
        if driving != self._driving:
            log.info("%s drives %s now", self.name, ", ".join(sorted(names)) or "no server")
        self._driving = driving
        if names != self._driven_names:
            self._driven_names = names
            self.share.drive(names)

    def _note_undriven(self, driven: Collection[ServerName], now_s: float) -> None:
        """Note since when nobody drives what somebody should, and tell of what a gateway drives that is no peer."""
        known = self._undriven_since_s
        self._undriven_since_s = {key: known.get(key, now_s) for key in self._intent if key not in driven}
        stranded = {key for key, since_s in self._undriven_since_s.items() if now_s - since_s >= _STRANDED_S}
        leases = {key: lease for key, (_, lease, _) in self._leases.items() if key in stranded}
        refused = frozenset(self._names[key] for key, lease in leases.items() if lease.is_refused)
        if refused - self._told_refused:
            log.warning(
                "another gateway drives %s, and %s hears nothing of it; give all gateways of a server the same "
                "gateway.peers, and let them reach each other",
                ", ".join(sorted(refused)),
                self.name,
            )
        self._told_refused = refused

    def _follow_plan(self, reports: Mapping[GatewayName, GatewayReport], *, now_s: float) -> None:
        # Where all end together, those that still have callers take what the others have driven.
        undrained = {name: report for name, report in reports.items() if not report.has_drained} or reports
        staying = {name: report for name, report in undrained.items() if not report.is_ending} or undrained
        first = min(staying)
        if first != self.name:
            self._plan, self._intent = NOTHING, reports[first].plan
            return
        measured = {key: report.capacities_rps for report in reports.values() for key in report.drives}
        capacities_rps = {
            key: measured.get(key, self._capacities_rps).get(key, own_rps)
            for key, own_rps in self._capacities_rps.items()
        }
        loads = {name: report.load for name, report in staying.items()}
        self._plan = plan_drivers(self._plan, loads, capacities_rps, now_s=now_s)
        self._intent = self._plan.drivers

    def _find_living(self, now_s: float) -> dict[GatewayName, PeerLink]:
        if self._ticked_s is not None and now_s - self._ticked_s > SILENT_S / 2:
            self._lenient_until_s = now_s + SILENT_S
        self._ticked_s = now_s
        known = self._living.values() if now_s < self._lenient_until_s else ()
        living: dict[GatewayName, PeerLink] = {}
        has_twin = False
        for link in self.links():
            report = link.report
            if report is None or (now_s - link.heard_s > SILENT_S and link not in known):
                continue
            if report.name == self.name:
                has_twin |= report.instance != self._instance and not report.is_ending
            if report.name == self.name and not (self.is_ending() and report.instance != self._instance):
                continue
            if report.name not in living or living[report.name].heard_s < link.heard_s:
                living[report.name] = link
        self._note_twin(has_twin and not self.is_ending(), now_s)
        return living

    def _note_twin(self, is_there: bool, now_s: float) -> None:
        """Tell of another gateway of this name once it has stayed: one that this one replaces ends by itself."""
        if not is_there:
            self._twin_since_s = None
        elif self._twin_since_s is None:
            self._twin_since_s = now_s
        elif now_s - self._twin_since_s >= _REPLACED_S:
            self._twin_since_s = math.inf  # told
            log.error("another gateway is called %s too; give each its own gateway.peers.name", self.name)

    def _tell_versions(self, others: Mapping[GatewayName, GatewayReport]) -> None:
        for name, report in others.items():
            if report.version != self.version and (name, report.version) not in self._told_versions:
                self._told_versions.add((name, report.version))
                runs = report.version or "an earlier version, which does not say its number"
                log.info(
                    "%s runs %s, this one %s; they share the fleet, and pass over what only one of them knows",
                    name,
                    runs,
                    self.version,
                )

    def _is_leaving(self, key: ServerName) -> bool:
        return key in self._leases and self._leases[key][1].is_leaving

    def _is_idle(self, name: ServerName) -> bool:
        return not self.share.has_sent(name)

    def _look_at_servers(self, now_s: float) -> None:
        servers = {ServerName(server.grpc): server for server in self.servers()}
        for key in [key for key, (known, _, _) in self._leases.items() if servers.get(key) != known]:
            _, lease, task = self._leases.pop(key)
            task.cancel()
            self._background.start("giving servers up", lease.give_up)
        for key in servers.keys() - self._leases.keys():
            server = servers[key]
            name = ServerName(server.name)
            lease = Lease(self.name, self.keeper_of(server), partial(self._is_idle, name), self._refresh)
            self._leases[key] = server, lease, self._background.start("claiming servers", lease.run)
        names = {key: ServerName(server.name) for key, server in servers.items()}
        if self._weighed_s is None or now_s - self._weighed_s >= _CAPACITY_S or names != self._names:
            self._weighed_s = now_s
            known_rps = self.share.weigh()
            self._capacities_rps = {key: known_rps[name] for key, name in names.items() if name in known_rps}
        self._names = names
        self._keys = {name: key for key, name in names.items()}
