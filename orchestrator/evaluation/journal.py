"""What was run so far, a JSON line a cell, so that an interruption loses at most the cells under way.

The first line says what the runs are about (scenarios by digest, specs, extent); a campaign that is about anything else
refuses to go on. A last line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from orchestrator.errors import ConfigError
from orchestrator.evaluation.figures import RunFigures, Timeline
from orchestrator.evaluation.runs import Cell, CellResult

CellKey = tuple[str, str, int]
"""Case, label of the contender, trace."""
_VERSION: Final = 1


def key_of(cell: Cell) -> CellKey:
    """Return what a cell is known by."""
    return cell.case, cell.contender.label, cell.trace


class Journal:
    """Results in memory and on disk; a context manager that holds the file open.

    Args:
        path: of the file.
        binding: what the runs are about, as JSON values.
        resume: whether to go on from what the file holds; else there must be none.

    Attributes:
        results: by cell.

    Raises:
        ConfigError: when the file can't be used, or is about something else.
    """

    def __init__(self, path: Path, binding: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.results: dict[CellKey, CellResult] = {}
        self._binding = {"version": _VERSION, **binding}
        self._file: IO[str] | None = None
        text = self._read()
        if text and not resume:
            raise ConfigError(f"{path} holds an interrupted run; go on with --resume, or remove it to begin anew")
        # What follows the last end of a line was being written when the end came.
        lines = text.split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                self._replay(number, json.loads(line))
            except (AttributeError, KeyError, TypeError, ValueError) as exc:
                raise ConfigError(f"{path} line {number} is damaged ({exc}); remove it to begin anew") from exc
        whole = sum(len(line.encode()) + 1 for line in lines)
        if whole < len(text.encode()):
            os.truncate(path, whole)
        self._is_new = not lines

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")
        except OSError as exc:
            raise ConfigError(f"can't write {self.path} ({exc.strerror}); choose another place with --out") from exc
        if self._is_new:
            self._write(self._binding)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, cell: Cell, result: CellResult) -> None:
        """Note what came of a cell."""
        key = key_of(cell)
        self.results[key] = result
        self._write({"cell": list(key), **asdict(result)})

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(values, allow_nan=False, separators=(",", ":")) + "\n")
        self._file.flush()

    def _read(self) -> str:
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read {self.path} ({exc}); remove it to begin anew") from exc

    def _replay(self, number: int, values: dict[str, Any]) -> None:
        if number == 1:
            for key, wanted in json.loads(json.dumps(self._binding)).items():
                if values.get(key) != wanted:
                    raise ConfigError(
                        f"{self.path} was begun with another {key} ({_shorten(values.get(key))}, now "
                        f"{_shorten(wanted)}); remove it to begin anew, or give what it was begun with"
                    )
            return
        case, label, trace = values["cell"]
        self.results[str(case), str(label), int(trace)] = CellResult(
            tuple(_run_figures(run) for run in values["runs"]),
            float(values["cpu_s"]),
            None if values["timeline"] is None else _timeline(values["timeline"]),
            None if values["decision_s"] is None else (float(values["decision_s"][0]), float(values["decision_s"][1])),
        )


def _run_figures(values: Mapping[str, Any]) -> RunFigures:
    return RunFigures(
        int(values["seed"]),
        dict(values["figures"]),
        tuple(values["latency_counts"]),
        {int(width): float(share) for width, share in values["width_shares"].items()},
        tuple(values["server_shares"]),
    )


def _timeline(values: Mapping[str, Any]) -> Timeline:
    return Timeline(
        float(values["until_s"]), tuple(values["arrivals_rps"]), tuple(values["width"]), tuple(values["latency_s"])
    )


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
