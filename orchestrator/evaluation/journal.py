"""What was run so far, a JSON line a cell, so that an interruption loses at most the cells under way.

A cell is known by the digest of its scenario, what its policy is and its trace. So a journal serves whoever comes with
more policies or traces, and never hands out what was run on anything else. The first line tells what all of its cells
have in common, the code that decides and simulates among it. A last line that was cut off by a crash is dropped.
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
from orchestrator.evaluation.runs import Cell, CellKey, CellResult
from orchestrator.policies.tables.compiled import SOURCE_DIGEST

_VERSION: Final = 1


class Journal:
    """Results in memory and on disk; a context manager that holds the file open.

    Args:
        path: of the file.
        seeds: of the lots of a policy that draws any.
        resume: whether to go on from what the file holds; else there must be none.

    Attributes:
        results: by cell.

    Raises:
        ConfigError: when the file can't be used, or has cells of other seeds or of other code.
    """

    def __init__(self, path: Path, *, seeds: int, resume: bool) -> None:
        self.path = path
        self.results: dict[CellKey, CellResult] = {}
        self._binding = {"version": _VERSION, "code": SOURCE_DIGEST, "seeds": seeds}
        self._file: IO[str] | None = None
        text = self._read()
        if text and not resume:
            raise ConfigError(f"{path} holds runs; go on with --resume, or remove it to begin anew")
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
        self.results[cell.key] = result
        self._write({"cell": list(cell.key), **asdict(result)})

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
            for key, wanted in self._binding.items():
                if values.get(key) != wanted:
                    raise ConfigError(
                        f"{self.path} was begun with {key} {values.get(key)}, now it is {wanted}; remove it to begin "
                        "anew"
                    )
            return
        digest, identity, trace = values["cell"]
        self.results[str(digest), str(identity), int(trace)] = CellResult(
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
