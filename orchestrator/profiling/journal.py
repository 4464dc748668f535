"""What was measured so far, a JSON line each, so that an interruption loses at most what was under way.

Beside ``profile.json`` lies ``profile.json.partial`` until the profile is complete. Its first line says which servers,
weights and Triton it is about; a campaign that finds other ones refuses to go on, because two halves of different
things make no whole. A last line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from orchestrator.errors import ConfigError
from orchestrator.profiling.sampling import Cell, Visit, Window
from orchestrator.snapshot import ModelName, ServerName

ModelKey = tuple[ServerName, ModelName]


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


@dataclass(slots=True)
class Journal:
    """A partial profile in memory and on disk; a context manager that holds the file open.

    Attributes:
        path: of the file.
        binding: what it is about, as JSON values; None when nothing was begun.
        visits: by cell, in the order they were made.
        idles: windows without load, by server.
        cycles: by model.
        unrestored: models that a measurement of changes was interrupted on.
    """

    path: Path
    binding: Mapping[str, Any] | None = None
    visits: dict[Cell, list[Visit]] = field(default_factory=dict)
    idles: dict[ServerName, list[Window]] = field(default_factory=dict)
    cycles: dict[ModelKey, list[Cycle]] = field(default_factory=dict)
    unrestored: dict[ModelKey, Before] = field(default_factory=dict)
    _file: IO[str] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the journal of a file, empty when there is none; to be entered before it is written to.

        Raises:
            ConfigError: when the file can't be read or is no journal.
        """
        journal = cls(path)
        try:
            text = path.read_text()
        except FileNotFoundError:
            return journal
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read {path} ({exc}); {_remedy(path)}") from exc
        # What follows the last end of a line was being written when the end came.
        lines = text.split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                journal._replay(json.loads(line))
            except (ValueError, KeyError, TypeError) as exc:
                raise ConfigError(f"{path} line {number} is damaged ({exc}); {_remedy(path)}") from exc
        whole = sum(len(line.encode()) + 1 for line in lines)
        if whole < len(text.encode()):
            os.truncate(path, whole)
        return journal

    def __enter__(self) -> Self:
        try:
            self._file = self.path.open("a")
        except OSError as exc:
            raise ConfigError(f"can't write {self.path} ({exc.strerror}); choose another place with --out") from exc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def bind(self, binding: Mapping[str, Any]) -> None:
        """Say what the measurements are about, or check that what there is already is about the same.

        Raises:
            ConfigError: when it is about something else; names the first difference.
        """
        if self.binding is None:
            self._write({"kind": "binding", **binding})
            return
        found, wanted = _flatten(self.binding), _flatten(binding)
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise ConfigError(
                    f"{self.path} was begun with {key} = {found.get(key)!r}, now it is {wanted.get(key)!r}; "
                    f"{_remedy(self.path)}"
                )

    def add_visit(self, cell: Cell, visit: Visit) -> None:
        """Note a visit."""
        self._write({"kind": "visit", **asdict(cell), **asdict(visit)})

    def add_idle(self, server: ServerName, window: Window) -> None:
        """Note a window without load."""
        self._write({"kind": "idle", "server": server, **asdict(window)})

    def add_before(self, key: ModelKey, before: Before) -> None:
        """Note how a model runs before its changes are measured."""
        self._write({"kind": "before", "server": key[0], "model": key[1], **asdict(before)})

    def add_cycle(self, key: ModelKey, cycle: Cycle) -> None:
        """Note what its changes took."""
        self._write({"kind": "cycle", "server": key[0], "model": key[1], **asdict(cycle)})

    def note_restored(self, key: ModelKey) -> None:
        """Note that a model runs as it did before."""
        self._write({"kind": "restored", "server": key[0], "model": key[1]})

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self._file.flush()
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
            window = values["window"]
            visit = Visit(
                tuple(map(float, values["latencies_s"])),
                None if window is None else Window(**window),
                tuple(map(float, values.get("rested_s", ()))),
                tuple(map(float, values.get("busy_s", ()))),
            )
            self.visits.setdefault(Cell(*key, int(values["items"])), []).append(visit)
        elif kind == "cycle":
            self.cycles.setdefault(key, []).append(Cycle(**values))
        elif kind == "before":
            sizes = tuple(values.pop("preferred_sizes"))
            self.unrestored[key] = Before(preferred_sizes=sizes, **values)
        elif kind == "restored":
            self.unrestored.pop(key, None)
        else:
            raise ValueError(f"unknown kind {kind!r}")


def _remedy(path: Path) -> str:
    return f"remove {path} or give --restart to begin anew"


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested values by their key path."""
    if isinstance(values, Mapping):
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(f"{path}[{index}]", value) for index, value in enumerate(values)]
    else:
        return {path: values}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves.update(_flatten(value, key))
    return leaves
