"""Runs every cell of a suite on an executor, and keeps each as it comes, over interruptions.

First traces come first, because they show which policies draw random numbers; the others of such a policy are run with
all seeds. Cells go out in a fixed order and are independent, so what runs them changes nothing but the time.

A cell is known by the digest of its scenario, what its policy is and its trace. So the records serve whoever comes with
more policies or traces, and never hand out what was run on anything else. The first line says what all of the cells
have in common, the code that decides and simulates among it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter

from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import Case
from orchestrator.evaluation.runs import Cell, CellKey, CellResult, run_cell
from orchestrator.executors import Executor, Progress, run_here
from orchestrator.policies.tables.compiled import SOURCE_DIGEST
from orchestrator.reporting.journal import Journal

_VERSION: Final = 1
_REMEDY: Final = "remove it to begin anew"
_RESULT: Final = TypeAdapter(CellResult)


class Records(Journal):
    """Results in memory and on disk; a context manager that holds the file open.

    A policy that draws random numbers is run with so many ``seeds``. Unless what the file holds is resumed, there must
    be none.

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
        if number > 1:
            if not self._may_resume:
                raise ConfigError(f"{self.path} holds runs; go on with --resume, or {_REMEDY}")
            digest, identity, trace = values["cell"]
            self.results[str(digest), str(identity), int(trace)] = _RESULT.validate_python(values)
            return
        for key, wanted in self._binding.items():
            if values.get(key) != wanted:
                raise ConfigError(f"{self.path} was begun with {key} {values.get(key)}, now it is {wanted}; {_REMEDY}")


def list_cells(cases: Sequence[Case], seeds: int) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of first traces and all others, each in the order of cases, traces and policies, each once."""
    cells = {
        cell.key: cell
        for case in cases
        for trace in case.traces
        for entry in case.entries
        for cell in [Cell(case.digest, case.path, case.requests, entry, trace, seeds, trace == case.traces[0])]
    }
    return [c for c in cells.values() if c.is_first], [c for c in cells.values() if not c.is_first]


def run_campaign(
    cases: Sequence[Case],
    records: Records,
    *,
    seeds: int,
    execute: Executor = run_here,
    progress: Progress = lambda done, of: None,
) -> None:
    """Run every cell that the records do not hold yet.

    ``records`` are entered. A policy that draws random numbers is run with so many seeds. ``progress`` is called before
    the first cell and after each.
    """
    firsts, others = list_cells(cases, seeds)
    total = len(firsts) + len(others)
    done = len({cell.key for cell in firsts + others} & records.results.keys())
    progress(done, total)
    for cells in (firsts, others):
        for cell, result in execute(run_cell, list(_missing(cells, records))):
            records.add(cell, result)
            done += 1
            progress(done, total)


def _missing(cells: Sequence[Cell], records: Records) -> Iterator[Cell]:
    """Yield the cells that were not run; later traces with one seed where a policy draws no random numbers."""
    drawing = {key[:2] for key, result in records.results.items() if len(result.runs) > 1}
    for cell in cells:
        if cell.key not in records.results:
            yield cell if cell.is_first or cell.key[:2] in drawing else replace(cell, seeds=1)
