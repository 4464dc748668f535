"""Runs every cell of a suite over some processes, and keeps each as it comes.

First traces come first, because they tell which policies draw lots; the others of such a policy are run with all seeds.
Cells go out in a fixed order and are independent, so how many processes there are changes nothing but the time. At
most a few cells a process are handed out at a time, so an interruption ends soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from typing import Final

from orchestrator.evaluation.journal import Journal
from orchestrator.evaluation.runs import Cell, CellResult, run_cell
from orchestrator.evaluation.suites.plan import Case

Progress = Callable[[int, int], None]
"""Is told how many cells of how many are done."""
_AHEAD: Final = 2
"""Cells that wait for each process."""


def list_cells(cases: Sequence[Case], seeds: int) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of first traces and all others, each in the order of cases, traces and contenders, each once."""
    cells = {
        cell.key: cell
        for case in cases
        for trace in case.traces
        for entry in case.entries
        for cell in [Cell(case.digest, case.path, case.requests, entry, trace, seeds, trace == case.traces[0])]
    }
    return [c for c in cells.values() if c.is_first], [c for c in cells.values() if not c.is_first]


def run_campaign(
    cases: Sequence[Case], journal: Journal, *, seeds: int, jobs: int, progress: Progress = lambda done, of: None
) -> None:
    """Run every cell that the journal does not hold yet.

    Args:
        cases: of the suite.
        journal: entered; it keeps the results.
        seeds: of the lots of a policy that draws any.
        jobs: processes; with 1 everything runs in this one.
        progress: told after each cell, and before the first.
    """
    firsts, others = list_cells(cases, seeds)
    left = {cell.key for cell in firsts + others} - journal.results.keys()
    total = len(firsts) + len(others)
    progress(total - len(left), total)

    def keep(results: Iterable[tuple[Cell, CellResult]]) -> None:
        for cell, result in results:
            journal.add(cell, result)
            left.discard(cell.key)
            progress(total - len(left), total)

    def missing(cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if cell.key in left]

    def with_seeds(cells: Sequence[Cell]) -> list[Cell]:
        drawing = {key[:2] for key, result in journal.results.items() if len(result.runs) > 1}
        return [c if c.key[:2] in drawing else replace(c, seeds=1) for c in cells]

    if jobs == 1:
        keep((cell, run_cell(cell)) for cell in missing(firsts))
        keep((cell, run_cell(cell)) for cell in with_seeds(missing(others)))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            keep(_side_by_side(pool, missing(firsts), jobs))
            keep(_side_by_side(pool, with_seeds(missing(others)), jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _side_by_side(pool: ProcessPoolExecutor, cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, CellResult]]:
    """Yield results as they come."""
    waiting: dict[Future[CellResult], Cell] = {}
    left = iter(cells)
    while True:
        while len(waiting) < (1 + _AHEAD) * jobs and (cell := next(left, None)) is not None:
            waiting[pool.submit(run_cell, cell)] = cell
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()
