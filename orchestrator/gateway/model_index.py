"""What the servers of the fleet serve: families, and everything else.

The router knows the families it routes; this knows every model, because models that are not slimmable are passed on.
It is read from each server's repository index once a period, and a model's config once when it becomes ready: whether
it belongs to a family does not change while it serves. A family that was seen stays expected until every server that
listed it answers without listing it, so that losing all servers shows as "not ready" and not as "nothing to serve".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ModelNotFoundError, ServerUnavailableError, SlimError
from orchestrator.gateway.ports import Server
from orchestrator.gateway.protocol.family import FamilyModel, merge_widths
from orchestrator.gateway.protocol.messages import parse, pb
from orchestrator.gateway.protocol.wire import Address
from orchestrator.snapshot import Family, ServedModel, ServerName
from orchestrator.triton.discovery import parse_served_model
from orchestrator.triton.passthrough import RefusedCallError

log = logging.getLogger(__name__)

READY = "READY"
_LEAVING_LOOK_S = 0.1
_WIDTH_DIGITS = 3  # as the exporter names them: fashion_w025


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a model in a server's index; the fields are Triton's."""

    name: str
    version: str
    state: str
    reason: str


class ServerView:
    """What one server was last seen to serve."""

    def __init__(self, name: ServerName, server: Server) -> None:
        self.name = name
        self.server = server
        self.entries: tuple[Entry, ...] = ()
        self.widths: dict[str, ServedModel] = {}
        self.problem: str | None = "not asked yet"
        self.statistics_lock = asyncio.Lock()
        self._asked: set[str] = set()  # ready models whose config was read

    def has_ready(self, model: str, version: str = "") -> bool:
        """Return whether it has a model, or one version of it, ready."""
        return any(e.name == model and e.state == READY and version in ("", e.version) for e in self.entries)

    async def refresh(self, timeout_s: float) -> None:
        """Read the index, and the configs of models that are new; never raises."""
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

    def note_problem(self, problem: str) -> None:
        """Take it for gone until it has answered again."""
        if self.problem is None:
            log.warning("server %s is gone: %s", self.name, problem)
        self.problem = problem

    async def _read(self) -> None:
        request = pb.RepositoryIndexRequest().SerializeToString()
        index = parse(pb.RepositoryIndexResponse, await self.server.call("RepositoryIndex", request))
        entries = tuple(Entry(m.name, m.version, m.state, m.reason) for m in index.models)
        ready = {e.name for e in entries if e.state == READY}
        new = sorted(ready - self._asked)
        configs = await asyncio.gather(*(self._read_config(name) for name in new))
        found = {name: config for name, config in zip(new, configs, strict=True) if config is not False}
        listed = {e.name for e in entries}
        widths = {name: model for name, model in self.widths.items() if name in listed}
        for name, model in found.items():
            widths.pop(name, None)
            if isinstance(model, ServedModel):
                widths[name] = model
        self.entries, self.widths, self._asked = entries, widths, (self._asked & ready) | set(found)

    async def _read_config(self, name: str) -> ServedModel | bool | None:
        """Return the width that a model is, None when it is none, False when it can't be known now."""
        request = pb.ModelConfigRequest(name=name).SerializeToString()
        try:
            answer = await self.server.call("ModelConfig", request)
        except RefusedCallError as exc:
            if exc.status == "UNAVAILABLE":
                raise
            return False  # unloaded since the index was read
        return parse_served_model(parse(pb.ModelConfigResponse, answer).config)


class ModelIndex:
    """What all servers serve.

    Args:
        servers: by name.
        timeout_s: for a server to say what it serves.
    """

    def __init__(self, servers: Mapping[ServerName, Server], *, timeout_s: float) -> None:
        self.views = tuple(ServerView(name, server) for name, server in sorted(servers.items()))
        self._timeout_s = timeout_s
        self._families: dict[str, FamilyModel] = {}
        self._leaving: dict[asyncio.Task[None], Server] = {}
        self._has_changed = asyncio.Event()

    async def refresh(self) -> None:
        """Ask every server what it serves; never raises."""
        await asyncio.gather(*(view.refresh(self._timeout_s) for view in self.views))
        widths: dict[Family, list[ServedModel]] = {}
        for model in (model for view in self.views for model in view.widths.values()):
            widths.setdefault(model.family, []).append(model)
        self._families = {name: merge_widths(models) for name, models in sorted(widths.items())}

    async def watch(self, period_s: float) -> None:
        """Refresh for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._has_changed.wait()
            self._has_changed.clear()
            await self.refresh()

    def reconfigure(self, opened: Mapping[ServerName, Server], closed: Iterable[ServerName]) -> None:
        """Go on with other servers; one that is in both has moved.

        A server that leaves is asked nothing more, and let go when what it has is answered.
        """
        views = {view.name: view for view in self.views}
        for name in closed:
            server = views.pop(name).server
            task = asyncio.create_task(_see_off(server))
            self._leaving[task] = server
            task.add_done_callback(lambda done: self._leaving.pop(done, None))
        views |= {name: ServerView(name, server) for name, server in opened.items()}
        self.views = tuple(views[name] for name in sorted(views))
        self._has_changed.set()

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Release all connections, after waiting at most so long for what is under way."""
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        servers = [*(view.server for view in self.views), *leaving.values()]
        await asyncio.gather(*(server.close(drain_s=drain_s) for server in servers), return_exceptions=True)

    @property
    def families(self) -> Mapping[str, FamilyModel]:
        """Every family that is expected, by name; whether it can be served now is for the router to say."""
        return self._families

    def widths(self, family: Family) -> dict[int, ServedModel]:
        """Return one model for each known width of a family, ascending."""
        found = {m.width: m for view in self.views for m in view.widths.values() if m.family == family}
        return {width: found[width] for width in sorted(found)}

    def is_known(self, model: str) -> bool:
        """Return whether a model is a family's or listed by a server, ready or not."""
        return model in self._families or any(entry.name == model for view in self.views for entry in view.entries)

    def is_width(self, model: str) -> bool:
        """Return whether a model of a server is a width of a family."""
        return any(model in view.widths for view in self.views)

    def find(self, address: Address) -> list[ServerView]:
        """Return the servers to try for a model, best first.

        Those that answer, fewest calls under way first; a request of a sequence always in the same order, so that it
        finds the server that has the sequence's state.

        Raises:
            ModelNotFoundError: when no server lists it.
            ServerUnavailableError: when those that had it do not answer.
        """
        having = [view for view in self.views if view.has_ready(address.model, address.version)]
        views = [view for view in having if view.problem is None]
        if views:
            if address.sequence:
                return sorted(views, key=lambda view: _weight(view, address.sequence))
            return sorted(views, key=lambda view: view.server.in_flight)
        if having:
            raise ServerUnavailableError(f"Request for unknown model: '{address.model}' is on no server that answers")
        silent = [view.name for view in self.views if view.problem is not None and not view.entries]
        if silent:  # one of them may have it
            raise ServerUnavailableError(f"model '{address.model}' was not found; {', '.join(silent)} did not answer")
        reason = next((e.reason for v in self.views for e in v.entries if e.name == address.model and e.reason), "")
        version = f" version {address.version}" if address.version else ""
        raise ModelNotFoundError(
            f"Request for unknown model: '{address.model}'{version} is not found" + (f" ({reason})" if reason else "")
        )

    def merged_entries(self, families: Iterable[str]) -> list[Entry]:
        """Return the index over all servers, a version of a model once, ready when it is so anywhere.

        Args:
            families: that are left out, with their widths.
        """
        left_out = set(families)
        merged: dict[tuple[str, str], Entry] = {}
        for view in self.views:
            for entry in view.entries:
                if entry.name in left_out or self.is_width(entry.name) or _is_named_like_a_width(entry, left_out):
                    continue
                seen = merged.get((entry.name, entry.version))
                here = entry if view.problem is None else Entry(entry.name, entry.version, "UNAVAILABLE", view.problem)
                if seen is None or (seen.state != READY and here.state == READY):
                    merged[entry.name, entry.version] = here
        return [merged[key] for key in sorted(merged)]


def _is_named_like_a_width(entry: Entry, families: set[str]) -> bool:
    """Return whether a model that is not loaded, so that its config can't be read, is a width by its name."""
    family, _, width = entry.name.rpartition("_w")
    return entry.state != READY and family in families and len(width) == _WIDTH_DIGITS and width.isdecimal()


async def _see_off(server: Server) -> None:
    """Close a connection once nothing is under way on it: closing it earlier would cancel that on the server."""
    while server.in_flight > 0:
        await asyncio.sleep(_LEAVING_LOOK_S)
    await server.close()


def _weight(view: ServerView, sequence: bytes) -> bytes:
    """Rendezvous hashing: each sequence has its own order of servers, whichever of them are there."""
    return hashlib.blake2b(sequence + view.name.encode(), digest_size=8).digest()


def names_of(views: Sequence[ServerView]) -> str:
    """Return the names of servers for a message."""
    return ", ".join(view.name for view in views)
