"""What the Tritons of a fleet serve, asked once a period for a whole process.

A server's repository index is read each time, and the config of each model when it becomes ready: whether it belongs to
a family does not change while it serves. Configs of families' widths are read each time, because a controller changes
their instance counts in place. Servers come and go; each is asked by itself, so that one that is slow holds up no other
one, and one that does not answer is asked again soon.

A width is one network on every server: what most servers name as its digest (``slim.sha256``), and among equals what
was used before. A server that names another, or none, is not used for that width until it names the same, because a
caller would get answers of another network under one name. So a new version of the weights is used from the moment at
which more than half of the servers have it. What a server has been seen to serve counts while it does not answer, so
that an outage makes no majority of what is left.

The same holds for what a family's widths take and give (orchestrator.triton.families). A model that looks meant for a
family and is none is told with the reason, once by each process for each server that has it. One that the fleet file
describes and no server has is told once by each process.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, Protocol, Self, TypeVar

from orchestrator.background import end_tasks
from orchestrator.config import FleetSettings
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.snapshot import Family, ServedModel, ServerName
from orchestrator.triton.client import READY, IndexEntry, TritonClient, read_index
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.families import (
    Described,
    Interface,
    Misfit,
    choose_interfaces,
    describe_models,
    find_misfits,
    interfaces_of,
    read_width,
)
from orchestrator.triton.messages import parse_answer, pb
from orchestrator.triton.protocol_key import read_protocol_key

log = logging.getLogger(__name__)

_RECHECK_S: Final = 0.25
"""Pause after a server did not answer or had nothing ready, so that one that comes is used within a second."""
_EARLY_S: Final = 1e-3
"""How much too early is in time."""
_LEAVING_LOOK_S: Final = 0.1


class DiscoveredServer(Protocol):
    """What discovery needs of a server; TritonClient is the real one."""

    @property
    def in_flight(self) -> int:
        """Calls and streams under way."""

    async def call(self, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the answer to a unary call; raises RefusedCallError."""

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Release the connection, after waiting at most so long for what is under way."""


S = TypeVar("S", bound=DiscoveredServer)
Listener = Callable[[ServerName | None], None]
"""Is given the server that was asked; None: servers have come or gone."""


class ServerModels(Generic[S]):
    """What one server was last seen to have.

    Attributes:
        server: The connection to it.
        entries: Its repository index.
        found: Models of families by name, those that are listed and not ready now included.
        widths: Those of them that have the family's weights.
        foreign: The names of those of other weights than the family's, which are not used.
        misfits: Why models that look meant for a family are none, by name.
        described: What the fleet file says of models.
        served: The widths that it was ready to run, ordered by name; the same tuple for as long as they are the same.
        problem: Why it can't be asked; None when it answered last time.
        asked_s: When it was last asked, seconds on the event loop's clock; before all time when it never was.
    """

    def __init__(self, name: ServerName, server: S, described: Described) -> None:
        self.name = name
        self.described = described
        self.server = server
        self.entries: tuple[IndexEntry, ...] = ()
        self.found: dict[str, ServedModel] = {}
        self.widths: dict[str, ServedModel] = {}
        self.foreign: frozenset[str] = frozenset()
        self.misfits: dict[str, str] = {}
        self.served: tuple[ServedModel, ...] = ()
        self.problem: str | None = "not asked yet"
        self.asked_s = -math.inf
        self._known: set[str] = set()  # ready models whose config was read
        self._unreadable: dict[str, str] = {}  # misfits among them by their own config
        self._ready: frozenset[str] = frozenset()  # widths among them
        self._unlisted: set[str] = set()  # ready models that its repository does not show
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_new(self) -> bool:
        """Whether it was never asked."""
        return self.asked_s == -math.inf

    @property
    def has_any_ready(self) -> bool:
        """Whether it has any model ready; one that has just started has none."""
        return any(entry.state == READY for entry in self.entries)

    def has_ready(self, model: str, version: str = "") -> bool:
        """Return whether it has a model, or one version of it, ready."""
        return model not in self.foreign and any(
            e.name == model and e.state == READY and version in ("", e.version) for e in self.entries
        )

    def keep_to(self, digests: Mapping[str, str | None]) -> None:
        """Use only widths of these digests, by model; one that has another is logged when that is new."""
        foreign = frozenset(name for name, model in self.found.items() if model.sha256 != digests.get(name))
        for name in sorted(foreign - self.foreign):
            log.warning(
                "model %s on %s is not used: its slim.sha256 is %s, and the one that is used is %s",
                name,
                self.name,
                self.found[name].sha256,
                digests.get(name),
            )
        self.foreign = foreign
        self._select()

    def keep_to_interfaces(self, interfaces: Mapping[Family, Interface]) -> None:
        """Use only widths that take and give what their family does; what is new among misfits is logged."""
        misfits = self._unreadable | find_misfits(self.found.values(), interfaces)
        for name, reason in sorted(misfits.items() - self.misfits.items()):
            log.warning("model %s on %s is of no family: %s", name, self.name, reason)
        self.misfits = misfits
        self._select()

    def describe(self, described: Described) -> None:
        """Take what another fleet file says of models, and read all configs again."""
        self.described = described
        self._known.clear()

    def note_problem(self, problem: str) -> None:
        """Take it for gone until it has answered again."""
        if self.problem is None:
            log.debug("server %s is gone: %s", self.name, problem)  # who sends to it says so, once
        self.problem = problem

    async def refresh(self, timeout_s: float) -> None:
        """Ask it what it has, or wait for the answer when somebody else is asking; never raises."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._refresh(timeout_s))
        await asyncio.shield(self._reading)

    def stop(self) -> None:
        """Give up a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()

    async def _refresh(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._read()
        except (SlimError, TimeoutError) as exc:
            self.note_problem(str(exc) or f"no answer within {timeout_s:g} s")
        except Exception as exc:
            log.exception("reading what server %s serves failed unexpectedly", self.name)
            self.note_problem(f"{type(exc).__name__}: {exc}")
        else:
            self.problem = None
        finally:
            self.asked_s, self._reading = asyncio.get_running_loop().time(), None

    async def _list(self) -> tuple[IndexEntry, ...]:
        """Return what the repository holds, and what is served all the same of what it no longer shows.

        A Triton answers from memory: that its folder was moved, or can't be read for a while, ends no model.
        """
        try:
            answer = await self.server.call("RepositoryIndex", pb.RepositoryIndexRequest().SerializeToString())
            entries, why = read_index(parse_answer(pb.RepositoryIndexResponse, answer)), "it is not there"
        except RefusedCallError as exc:
            if exc.is_gone or exc.status == "UNAVAILABLE" or not self.has_any_ready:
                raise
            entries, why = (), str(exc)
        listed = {entry.name for entry in entries}
        unlisted = [entry for entry in self.entries if entry.state == READY and entry.name not in listed]
        served = await asyncio.gather(*(self._is_ready(entry) for entry in unlisted))
        kept = [entry for entry, is_served in zip(unlisted, served, strict=True) if is_served]
        if not entries and not kept and unlisted:
            log.warning("server %s has no model ready any more; its repository: %s", self.name, why)
        for name in sorted({entry.name for entry in kept} - self._unlisted):
            log.warning("model %s on %s is served, and its repository does not show it: %s", name, self.name, why)
        self._unlisted = {entry.name for entry in kept}
        return (*entries, *kept)

    async def _is_ready(self, entry: IndexEntry) -> bool:
        request = pb.ModelReadyRequest(name=entry.name, version=entry.version).SerializeToString()
        try:
            answer = await self.server.call("ModelReady", request)
        except RefusedCallError as exc:
            if exc.is_gone or exc.status == "UNAVAILABLE":
                raise
            return False
        return bool(parse_answer(pb.ModelReadyResponse, answer).ready)

    async def _read(self) -> None:
        described, entries = self.described, await self._list()
        ready = {entry.name for entry in entries if entry.state == READY}
        asked = sorted((ready - self._known) | (ready & self.found.keys()))
        models = dict(zip(asked, await asyncio.gather(*map(self._read_config, asked)), strict=True))
        found = {name: model for name, model in models.items() if model is not False}
        listed = {entry.name for entry in entries}
        widths = {name: model for name, model in self.found.items() if name in listed and name not in found}
        widths |= {name: model for name, model in found.items() if isinstance(model, ServedModel)}
        unreadable = {name: why for name, why in self._unreadable.items() if name in ready and name not in found}
        unreadable |= {name: model.reason for name, model in found.items() if isinstance(model, Misfit)}
        self.entries, self.found, self._unreadable = entries, widths, unreadable
        self._ready = frozenset(widths.keys() & ready & found.keys())
        # What was read before the fleet file said something else is read again.
        self._known = (self._known & ready) | set(found) if described is self.described else set()
        self._select()

    def _select(self) -> None:
        left_out = self.foreign | self.misfits.keys()
        self.widths = {name: model for name, model in self.found.items() if name not in left_out}
        served = tuple(self.widths[name] for name in sorted(self._ready & self.widths.keys()))
        self.served = self.served if served == self.served else served

    async def _read_config(self, name: str) -> ServedModel | Misfit | bool | None:
        """Return the width that a model is, None when it is none, False when it can't be known now."""
        request = pb.ModelConfigRequest(name=name).SerializeToString()
        try:
            answer = await self.server.call("ModelConfig", request)
        except RefusedCallError as exc:
            if exc.status == "UNAVAILABLE":
                raise
            return False  # unloaded since the index was read
        return read_width(parse_answer(pb.ModelConfigResponse, answer).config, self.described)


class ModelDiscovery(Generic[S]):
    """Asks all servers what they have, until it is closed; a context manager that closes it.

    The connections are closed by ``close``, or when they leave.

    Attributes:
        servers: What each has, ordered by name.
        timeout_s: How long a server may take to say what it has; may be changed.
    """

    def __init__(
        self, servers: Mapping[ServerName, S], *, timeout_s: float, described: Described | None = None
    ) -> None:
        self._described = described or {}
        self.servers = tuple(ServerModels(name, server, self._described) for name, server in sorted(servers.items()))
        self.timeout_s = timeout_s
        self._missing: frozenset[str] = frozenset()
        self._interfaces: dict[Family, Interface] = {}
        self._is_closed = False
        self._listeners: list[Listener] = []
        self._leaving: dict[asyncio.Task[None], S] = {}
        self._has_changed = asyncio.Event()
        self._digests: dict[str, str | None] = {}
        self._named: dict[ServerName, dict[str, str | None]] = {}  # the digests that each server named

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def answers(self, name: str) -> bool:
        """Return whether a server answered when it was last asked."""
        return any(server.name == name and server.problem is None for server in self.servers)

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` whenever a server was asked, or servers have come or gone."""
        self._listeners.append(listener)

    async def refresh(self, name: ServerName | None = None) -> None:
        """Ask one server, or all, what they have; never raises."""
        await asyncio.gather(*(self._refresh(server) for server in self.servers if name in (None, server.name)))

    async def served_models(self, name: ServerName) -> tuple[ServedModel, ...]:
        """Ask one server now, and return the widths that it is ready to run, ordered by name.

        Once this is closed it is what the server last said.

        Raises:
            ServerUnavailableError: when it does not answer, or there is no such server any more.
        """
        await self.refresh(name)
        server = next((server for server in self.servers if server.name == name), None)
        if server is None or server.problem is not None:
            problem = None if server is None else server.problem
            raise ServerUnavailableError(problem or f"server {name} has left the fleet", executed=False)
        return server.served

    async def _refresh(self, server: ServerModels[S]) -> None:
        if not self._is_closed:
            await server.refresh(self.timeout_s)
            self._compare()
            self._notify(server.name)

    def describe(self, described: Described) -> None:
        """Take what another fleet file says of models, from when each server is asked next."""
        if described != self._described:
            self._described = described
            for server in self.servers:
                server.describe(described)

    def _compare(self) -> None:
        self._compare_digests()
        found = [model for server in self.servers for model in server.found.values()]
        self._interfaces = choose_interfaces(interfaces_of(found), self._interfaces)
        for server in self.servers:
            server.keep_to_interfaces(self._interfaces)
        if all(server.problem is None for server in self.servers):
            self._tell_missing()

    def _tell_missing(self) -> None:
        listed = {entry.name for server in self.servers for entry in server.entries}
        missing = frozenset(self._described.keys() - listed)
        for name in sorted(missing - self._missing):
            family = self._described[name].family
            log.warning("no server has model %s, which the fleet file describes as a width of %s", name, family)
        self._missing = missing

    def _compare_digests(self) -> None:
        """Hold what servers serve against what most of them do, when that has changed."""
        named = {server.name: {name: m.sha256 for name, m in server.found.items()} for server in self.servers}
        if named == self._named:
            return
        counts: dict[str, Counter[str | None]] = {}
        for digests in named.values():
            for name, digest in digests.items():
                counts.setdefault(name, Counter())[digest] += 1
        chosen = {
            name: max(count, key=lambda digest: (count[digest], digest == self._digests.get(name, "")))
            for name, count in counts.items()
        }
        self._named, self._digests = named, chosen
        for server in self.servers:
            server.keep_to(chosen)

    async def watch(self, period_s: float) -> None:
        """Ask each server once a period, for ever; not one that somebody else has asked within the period."""
        watching: dict[ServerModels[S], asyncio.Task[None]] = {}
        try:
            while True:
                self._has_changed.clear()
                for gone in watching.keys() - set(self.servers):
                    watching.pop(gone).cancel()
                for server in set(self.servers) - watching.keys():
                    watching[server] = asyncio.create_task(self._watch(server, period_s))
                await self._has_changed.wait()
        finally:
            await end_tasks(*watching.values())

    async def _watch(self, server: ServerModels[S], period_s: float) -> None:
        clock = asyncio.get_running_loop().time
        while not self._is_closed:  # then it would ask nobody, without end and without a pause
            pause_s = period_s if server.problem is None and server.has_any_ready else min(period_s, _RECHECK_S)
            early_s = server.asked_s + pause_s - clock()
            if early_s > _EARLY_S:
                await asyncio.sleep(early_s)
            else:
                await self._refresh(server)

    def _notify(self, name: ServerName | None) -> None:
        for listener in self._listeners:
            listener(name)

    def reconfigure(self, opened: Mapping[ServerName, S], closed: Iterable[ServerName]) -> None:
        """Go on with other servers; one that is in both has moved.

        A server that leaves is asked nothing more, and let go when what it has is answered.
        """
        servers = {server.name: server for server in self.servers}
        for name in closed:
            leaving = servers.pop(name).server
            task = asyncio.create_task(_close_when_idle(leaving))
            self._leaving[task] = leaving
            task.add_done_callback(lambda done: self._leaving.pop(done, None))
        servers |= {name: ServerModels(name, server, self._described) for name, server in opened.items()}
        self.servers = tuple(servers[name] for name in sorted(servers))
        self._has_changed.set()
        self._compare()
        self._notify(None)

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Release all connections, after waiting at most so long for what is under way."""
        if self._is_closed:
            return
        self._is_closed = True
        for server in self.servers:
            server.stop()
        leaving = dict(self._leaving)
        await end_tasks(*leaving)
        servers = [*(server.server for server in self.servers), *leaving.values()]
        await asyncio.gather(*(server.close(drain_s=drain_s) for server in servers), return_exceptions=True)


async def find_misfits_of_fleet(fleet: FleetSettings, *, timeout_s: float) -> dict[str, Mapping[str, str] | None]:
    """Ask each Triton of a fleet which of its models look meant for a family and are none; return why, by server.

    Of one that does not answer it is None. What is found is logged, as by any discovery.
    """
    clients = {
        ServerName(server.name): TritonClient(
            server.grpc, timeout_s=timeout_s, protocol_key=read_protocol_key(server.protocol_key_file)
        )
        for server in fleet.servers
    }
    described = describe_models(fleet.families)
    async with ModelDiscovery(clients, timeout_s=timeout_s, described=described) as discovery:
        await discovery.refresh()
        return {server.name: server.misfits if server.problem is None else None for server in discovery.servers}


async def _close_when_idle(server: DiscoveredServer) -> None:
    """Close a connection once nothing is under way on it: closing it earlier would cancel that on the server."""
    while server.in_flight > 0:
        await asyncio.sleep(_LEAVING_LOOK_S)
    await server.close()
