"""Every cell that was run so far, kept over interruptions.

A cell is known by the digest of its scenario, what its policy is and its trace. So the records serve whoever comes with
more policies or traces, and never hand out what was run on anything else. The first line tells what all of the cells
have in common, the code that decides and simulates among it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter

from orchestrator.errors import ConfigError
from orchestrator.evaluation.runs import Cell, CellKey, CellResult
from orchestrator.policies.tables.compiled import SOURCE_DIGEST
from orchestrator.reporting.journal import Journal

_VERSION: Final = 1
_REMEDY: Final = "remove it to begin anew"
_RESULT: Final = TypeAdapter(CellResult)


class Records(Journal):
    """Results in memory and on disk; a context manager that holds the file open.

    Args:
        path: The file.
        seeds: How many seeds a policy that draws random numbers is run with.
        resume: Whether to go on from what the file holds; else there must be none.

    Attributes:
        path: The file.
        results: By cell.

    Raises:
        ConfigError: when the file can't be used, or has cells of other seeds or of other code.
    """

    def __init__(self, path: Path, *, seeds: int, resume: bool) -> None:
        self.path = path
        self.results: dict[CellKey, CellResult] = {}
        self._binding = {"version": _VERSION, "code": SOURCE_DIGEST, "seeds": seeds}
        self._may_resume = resume
        super().__init__(path, self._replay, remedy=_REMEDY)

    def __enter__(self) -> Self:
        super().__enter__()
        if self.is_new:
            self.write(self._binding)
        return self

    def add(self, cell: Cell, result: CellResult) -> None:
        """Note what came of a cell."""
        self.results[cell.key] = result
        self.write({"cell": list(cell.key), **asdict(result)})

    def _replay(self, number: int, values: dict[str, Any]) -> None:
        if not self._may_resume:
            raise ConfigError(f"{self.path} holds runs; go on with --resume, or {_REMEDY}")
        if number > 1:
            digest, identity, trace = values["cell"]
            self.results[str(digest), str(identity), int(trace)] = _RESULT.validate_python(values)
            return
        for key, wanted in self._binding.items():
            if values.get(key) != wanted:
                raise ConfigError(f"{self.path} was begun with {key} {values.get(key)}, now it is {wanted}; {_REMEDY}")
