"""What was measured so far, kept over interruptions.

Beside ``profile.json`` lies ``profile.json.partial`` until the profile is complete. Its first line says which servers,
weights and Triton it is about; a campaign that finds other ones refuses to go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import ConfigError
from orchestrator.profiling.sampling import Cell, Visit, Window
from orchestrator.reporting.journal import Journal, differences
from orchestrator.snapshot import ModelName, ServerName

ModelKey = tuple[ServerName, ModelName]
_VISIT = TypeAdapter(Visit)


@dataclass(frozen=True, slots=True)
class Cycle:
    """Every change of one model done once; fields as in ``ModelChanges``."""

    load_s: float
    unload_s: float
    reload_s: float
    scale_up_s: float
    scale_down_s: float
    instance_bytes: int | None
    memory_source: str
    memory_reason: str


@dataclass(frozen=True, slots=True)
class Before:
    """How a model ran before changes of it were measured, to be brought back to."""

    instances: int
    preferred_sizes: tuple[int, ...]
    delay_us: int
    nonce: str


class Records(Journal):
    """A partial profile in memory and on disk; a context manager that holds its file open, to be entered to write.

    Attributes:
        binding: What the measurements are about, as JSON values; None when nothing was begun.
        visits: By cell, in the order they were made.
        idles: Windows without load, by server.
        cycles: By model.
        unrestored: Models that a measurement of changes was interrupted on.

    Raises:
        ConfigError: when the file can't be read or is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.binding: Mapping[str, Any] | None = None
        self.visits: dict[Cell, list[Visit]] = {}
        self.idles: dict[ServerName, list[Window]] = {}
        self.cycles: dict[ModelKey, list[Cycle]] = {}
        self.unrestored: dict[ModelKey, Before] = {}
        self._remedy = f"remove {path} or give --restart to begin anew"
        super().__init__(path, lambda number, values: self._replay(values), remedy=self._remedy, makes_folder=False)

    def bind(self, binding: Mapping[str, Any]) -> None:
        """Say what the measurements are about, or check that what there is already is about the same.

        Raises:
            ConfigError: when it is about something else; names the first difference.
        """
        if self.binding is None:
            self._note({"kind": "binding", **binding})
            return
        for key, found, wanted in differences(self.binding, binding):
            raise ConfigError(f"{self.path} was begun with {key} = {found!r}, now it is {wanted!r}; {self._remedy}")

    def require_restored(self) -> None:
        """Raise ConfigError when a killed campaign has left a model changed."""
        for server, model in self.unrestored:
            raise ConfigError(
                f"{self.path}: a run that was killed has left {model} on {server} changed; profile it with --control, "
                "which brings it back first, or remove that file where it runs as it should"
            )

    def add_visit(self, cell: Cell, visit: Visit) -> None:
        """Note a visit."""
        self._note({"kind": "visit", **asdict(cell), **asdict(visit)})

    def add_idle(self, server: ServerName, window: Window) -> None:
        """Note a window without load."""
        self._note({"kind": "idle", "server": server, **asdict(window)})

    def add_before(self, key: ModelKey, before: Before) -> None:
        """Note how a model runs before its changes are measured."""
        self._note({"kind": "before", "server": key[0], "model": key[1], **asdict(before)})

    def add_cycle(self, key: ModelKey, cycle: Cycle) -> None:
        """Note what its changes took."""
        self._note({"kind": "cycle", "server": key[0], "model": key[1], **asdict(cycle)})

    def note_restored(self, key: ModelKey) -> None:
        """Note that a model runs as it did before."""
        self._note({"kind": "restored", "server": key[0], "model": key[1]})

    def _note(self, values: Mapping[str, Any]) -> None:
        self.write(values)
        self._replay(json.loads(json.dumps(values)))

    def _replay(self, values: dict[str, Any]) -> None:
        kind = values.pop("kind")
        if kind == "binding":
            self.binding = values
            return
        if self.binding is None:
            raise ValueError("it does not begin with what it is about")
        server = ServerName(values.pop("server"))
        if kind == "idle":
            self.idles.setdefault(server, []).append(Window(**values))
            return
        key = (server, ModelName(values.pop("model")))
        if kind == "visit":
            cell = Cell(*key, int(values.pop("items")))
            self.visits.setdefault(cell, []).append(_VISIT.validate_python(values))
        elif kind == "cycle":
            self.cycles.setdefault(key, []).append(Cycle(**values))
        elif kind == "before":
            sizes = tuple(values.pop("preferred_sizes"))
            self.unrestored[key] = Before(preferred_sizes=sizes, **values)
        elif kind == "restored":
            self.unrestored.pop(key, None)
        else:
            raise ValueError(f"unknown kind {kind!r}")
