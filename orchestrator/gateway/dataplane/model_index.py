"""What the servers of the fleet serve: families, and everything else; a view over what discovery has found.

The router knows the families it routes; this knows every model, because models that are not slimmable are passed
through. A family that was seen stays expected until every server that listed it answers without listing it, so that
losing all servers shows as "not ready" and not as "nothing to serve".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping

from orchestrator.errors import ModelNotFoundError, ServerUnavailableError, SlimError
from orchestrator.gateway.ports import Server
from orchestrator.gateway.protocol.family import FamilyModel, merge_widths
from orchestrator.gateway.protocol.wire import Address
from orchestrator.snapshot import Family, ServedModel, ServerName
from orchestrator.triton.client import READY, IndexEntry
from orchestrator.triton.discovery import ModelDiscovery, ServerModels

_WIDTH_DIGITS = 3  # as the exporter names them: fashion_w025


class ModelIndex:
    """What all servers serve, ready or not, by model and by family."""

    def __init__(self, discovery: ModelDiscovery[Server]) -> None:
        self._discovery = discovery
        self._families: dict[str, FamilyModel] = {}
        self._changed = asyncio.Event()
        discovery.listen(self._update)

    def _update(self, _: ServerName | None) -> None:
        widths: dict[Family, list[ServedModel]] = {}
        for model in (model for server in self.servers for model in server.widths.values()):
            widths.setdefault(model.family, []).append(model)
        families: dict[str, FamilyModel] = {name: merge_widths(models) for name, models in sorted(widths.items())}
        # A server that was not asked yet may have what one that has left had.
        kept = self._families if any(server.is_new for server in self.servers) else {}
        self._families = dict(sorted({**kept, **families}.items()))
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def servers(self) -> tuple[ServerModels[Server], ...]:
        """What each server has, ordered by name."""
        return self._discovery.servers

    @property
    def families(self) -> Mapping[str, FamilyModel]:
        """Every family that is expected, by name; whether it can be served now is for the router to say."""
        return self._families

    @property
    def has_any_ready(self) -> bool:
        """Whether a server that answers has any model ready."""
        return any(server.problem is None and server.has_any_ready for server in self.servers)

    def widths(self, family: Family) -> dict[int, ServedModel]:
        """Return one model for each known width of a family, ascending."""
        found = {m.width: m for server in self.servers for m in server.widths.values() if m.family == family}
        return {width: found[width] for width in sorted(found)}

    def is_known(self, model: str) -> bool:
        """Return whether a model is a family's or listed by a server, ready or not."""
        return model in self._families or any(
            entry.name == model for server in self.servers for entry in server.entries
        )

    def is_width(self, model: str) -> bool:
        """Return whether a model of a server is a width of a family."""
        return any(model in server.widths for server in self.servers)

    async def wait_for(self, address: Address) -> list[ServerModels[Server]]:
        """Return what ``find`` does; where no server is found yet, servers that were not asked yet are waited for.

        They are asked within the time that a server has for it, and else a fleet whose servers have all moved would
        lose what comes meanwhile. Raises as ``find``.
        """
        while True:
            try:
                return self.find(address)
            except SlimError:
                if not any(server.is_new for server in self.servers):
                    raise
            await self._changed.wait()

    def find(self, address: Address) -> list[ServerModels[Server]]:
        """Return the servers to try for a model, best first.

        Those that answer, fewest calls under way first; a request of a sequence always in the same order, so that it
        finds the server that has the sequence's state.

        Raises:
            ModelNotFoundError: when no server lists it.
            ServerUnavailableError: when those that had it do not answer.
        """
        ready = [server for server in self.servers if server.has_ready(address.model, address.version)]
        # Where a width is being replaced, some servers may have one of another form, which is not the family's.
        having = [server for server in ready if address.model in server.widths] or ready
        answering = [server for server in having if server.problem is None]
        if answering:
            if address.sequence:
                return sorted(answering, key=lambda server: _weight(server.name, address.sequence))
            return sorted(answering, key=lambda server: server.server.in_flight)
        if having:
            raise ServerUnavailableError(f"Request for unknown model: '{address.model}' is on no server that answers")
        silent = [server.name for server in self.servers if server.problem is not None and not server.entries]
        if silent:  # one of them may have it
            raise ServerUnavailableError(f"model '{address.model}' was not found; {', '.join(silent)} did not answer")
        reason = next((e.reason for s in self.servers for e in s.entries if e.name == address.model and e.reason), "")
        raise not_found(address, reason)

    def merged_entries(self, families: Iterable[str]) -> list[IndexEntry]:
        """Return the index over all servers, without these families and their widths.

        A version of a model is in it once, ready when it is so anywhere.
        """
        left_out = set(families)
        merged: dict[tuple[str, str], IndexEntry] = {}
        for server in self.servers:
            for entry in server.entries:
                if entry.name in left_out or self.is_width(entry.name) or _is_named_like_a_width(entry, left_out):
                    continue
                seen, here = merged.get((entry.name, entry.version)), entry
                if server.problem is not None:
                    here = IndexEntry(entry.name, entry.version, "UNAVAILABLE", server.problem)
                if seen is None or (seen.state != READY and here.state == READY):
                    merged[entry.name, entry.version] = here
        return [merged[key] for key in sorted(merged)]


def not_found(address: Address, reason: str = "") -> ModelNotFoundError:
    """Return what refuses a request for a model, or a version of it, that is not there, in Triton's words."""
    version = f" version {address.version}" if address.version else ""
    text = f"Request for unknown model: '{address.model}'{version} is not found"
    return ModelNotFoundError(text + (f" ({reason})" if reason else ""))


def _is_named_like_a_width(entry: IndexEntry, families: set[str]) -> bool:
    """Return whether a model that is not loaded, so that its config can't be read, is a width by its name."""
    family, _, width = entry.name.rpartition("_w")
    return entry.state != READY and family in families and len(width) == _WIDTH_DIGITS and width.isdecimal()


def _weight(server: ServerName, sequence: bytes) -> bytes:
    """Return what a sequence's servers are ordered by.

    This is rendezvous hashing: each sequence has its own order of servers, whichever of them are there.
    """
    return hashlib.blake2b(sequence + server.encode(), digest_size=8).digest()
