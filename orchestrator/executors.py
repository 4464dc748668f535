"""What runs independent jobs: this process, some processes beside it, or the workers of a Dask cluster.

Which of them it is changes nothing but the time: a job is a function of a module and a value, draws its random numbers
from seeds, and its result is taken as it comes. Few jobs are handed out ahead, so that an interruption ends soon.

Both kinds are executors of ``concurrent.futures``. Dask was taken because a task of a worker that died runs again on
another one without more of ours. What it does not know is whether its workers run the same code, so each job brings a
digest of what decides and simulates, and a worker with other code refuses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures import Executor as Pool
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from orchestrator.errors import ConfigError, SlimError, TransientError
from orchestrator.installed.extras import check_extra
from orchestrator.policies.tables.compiled import SOURCE_DIGEST

Job = TypeVar("Job")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with how many of how many jobs are done."""
_AHEAD: Final = 2
"""Jobs that wait for each process."""
_CONNECT_S: Final = 20.0
_GO_ON: Final = "then start again, with --resume where there is one: what was kept is not run again"


class Executor(Protocol):
    """Runs a function on jobs."""

    def __call__(self, run: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[tuple[Job, Result]]:
        """Yield each job with its result as they come; ``run`` is a function that other processes can import."""


def run_here(run: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[tuple[Job, Result]]:
    """Run jobs one after another in this process."""
    return ((job, run(job)) for job in jobs)


def run_in_order(execute: Executor, run: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Return the results of jobs in the order of these."""
    found = {numbered[0]: result for numbered, result in execute(partial(_run_numbered, run), list(enumerate(jobs)))}
    return [found[number] for number in range(len(jobs))]


@contextmanager
def open_executor(*, processes: int = 1, dask: str | None = None) -> Iterator[Executor]:
    """Yield what runs jobs: with a scheduler's address its cluster, with one process this one, else so many.

    Raises:
        ConfigError: when Dask is not installed, or no scheduler with a worker answers.
        TransientError: when jobs could not be run to their end; what has come of others is as good as ever.
    """
    if dask is not None:
        with _open_cluster(dask) as execute:
            yield execute
    elif processes == 1:
        yield run_here
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_starter) as pool:
            try:
                yield run_on(pool, lambda: processes)
            except KeyboardInterrupt:  # nobody takes what they would still find
                for worker in active_children():
                    worker.terminate()
                raise
            except BrokenExecutor as exc:
                raise TransientError(
                    f"one of the {processes} processes was killed, as where memory runs out; take fewer side by side, "
                    f"{_GO_ON}"
                ) from exc


def run_on(pool: Pool, width: Callable[[], int]) -> Executor:
    """Return what runs jobs on an executor of ``concurrent.futures``, which runs ``width()`` of them at a time."""
    return partial(_run_on, pool, width)


@contextmanager
def _open_cluster(address: str) -> Iterator[Executor]:
    check_extra("--dask", "cluster", "distributed")
    distributed: Any = import_module("distributed")  # its functions have no types
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"--dask {address}: no scheduler answers within {_CONNECT_S:g} s ({exc}); start one with 'dask scheduler'"
        ) from exc
    with _quiet(distributed.client.logger), client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError as exc:
            raise ConfigError(
                f"--dask {address}: no worker came within {_CONNECT_S:g} s; start some with 'dask worker {address}'"
            ) from exc

        def execute(run: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[tuple[Job, Result]]:
            pool: Pool = client.get_executor(pure=False)
            run_same = partial(_run_same, SOURCE_DIGEST, run)
            try:
                yield from _run_on(pool, lambda: sum(client.nthreads().values()), run_same, jobs)
            except SlimError:
                raise
            except (distributed.comm.CommClosedError, CancelledError) as exc:  # all jobs are cancelled with it
                raise TransientError(
                    f"--dask {address}: the scheduler does not answer any more; look at its log, {_GO_ON}"
                ) from exc
            except Exception as exc:
                raise TransientError(
                    f"--dask {address}: a job could not be run ({type(exc).__name__}: {exc}); look at the workers' "
                    f"logs, {_GO_ON}"
                ) from exc

        yield execute


@contextmanager
def _quiet(logger: Any) -> Iterator[None]:
    """Silence a logger: a client logs tracebacks of a scheduler that is gone, which is told in one line."""
    level = logger.level
    logger.setLevel("CRITICAL")
    try:
        yield
    finally:
        logger.setLevel(level)


def _run_on(
    pool: Pool, width: Callable[[], int], run: Callable[[Job], Result], jobs: Iterable[Job], /
) -> Iterator[tuple[Job, Result]]:
    """Run jobs on a pool that runs so many at a time."""
    left = iter(jobs)
    waiting: dict[Future[Result], Job] = {}
    try:
        while True:
            most = (1 + _AHEAD) * max(1, width())
            for job in left:
                waiting[pool.submit(run, job)] = job
                if len(waiting) >= most:
                    break
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except KeyboardInterrupt:
        waiting.clear()  # the pool ends as a whole; in Python 3.11 it fails at what is cancelled meanwhile
        raise
    finally:
        for future in waiting:
            future.cancel()


def _end_with_starter() -> None:
    """End this process when the one that started it is gone, which a pool's idle or busy workers do not notice."""
    starter = parent_process()
    assert starter is not None

    def watch() -> None:
        starter.join()
        os._exit(1)

    Thread(target=watch, name="end-with-starter", daemon=True).start()


def _run_numbered(run: Callable[[Job], Result], numbered: tuple[int, Job]) -> Result:
    return run(numbered[1])


def _run_same(code: str, run: Callable[[Job], Result], job: Job) -> Result:
    """Run a job on a worker that has the code of who asks."""
    if code != SOURCE_DIGEST:
        raise ConfigError("a Dask worker has other code than this; install the same slim-scheduler on all of them")
    return run(job)
