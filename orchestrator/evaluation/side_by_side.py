"""Independent jobs over some processes, in whatever order they end.

Few jobs are handed out ahead, so that an interruption ends soon. How many processes there are changes nothing but the
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Final, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with how many of how many jobs are done."""
_AHEAD: Final = 2
"""Jobs that wait for each process."""


def run_jobs(run: Callable[[Job], Result], jobs: Iterable[Job], processes: int) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result as they come; with one process everything runs in this one.

    ``run`` is a function of a module, which spawned processes can import.
    """
    left = iter(jobs)
    if processes == 1:
        yield from ((job, run(job)) for job in left)
        return
    waiting: dict[Future[Result], Job] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                for job in left:
                    waiting[pool.submit(run, job)] = job
                    if len(waiting) >= (1 + _AHEAD) * processes:
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
