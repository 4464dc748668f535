"""Runs every cell of a suite over some processes, and keeps each as it comes.

First traces come first, because they tell which policies draw random numbers; the others of such a policy are run with
all seeds. Cells go out in a fixed order and are independent, so how many processes there are changes nothing but the
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.evaluation.cases import Case
from orchestrator.evaluation.records import Records
from orchestrator.evaluation.runs import Cell, run_cell
from orchestrator.evaluation.side_by_side import Progress, run_jobs


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
    cases: Sequence[Case], records: Records, *, seeds: int, jobs: int, progress: Progress = lambda done, of: None
) -> None:
    """Run every cell that the records do not hold yet.

    Args:
        cases: What the suite runs.
        records: They keep the results; entered.
        seeds: How many seeds a policy that draws random numbers is run with.
        jobs: How many processes; with 1 everything runs in this one.
        progress: Told after each cell, and before the first.
    """
    firsts, others = list_cells(cases, seeds)
    total = len(firsts) + len(others)
    done = len({cell.key for cell in firsts + others} & records.results.keys())
    progress(done, total)
    for cells in (firsts, others):
        for cell, result in run_jobs(run_cell, list(_missing(cells, records)), jobs):
            records.add(cell, result)
            done += 1
            progress(done, total)


def _missing(cells: Sequence[Cell], records: Records) -> Iterator[Cell]:
    """Yield the cells that were not run; later traces with one seed where a policy draws no random numbers."""
    drawing = {key[:2] for key, result in records.results.items() if len(result.runs) > 1}
    for cell in cells:
        if cell.key not in records.results:
            yield cell if cell.is_first or cell.key[:2] in drawing else replace(cell, seeds=1)
