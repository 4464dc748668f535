"""Whatever runs jobs gives the same results, in any order; what is wrong with a cluster is one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator import executors
from orchestrator.errors import ConfigError, TransientError
from orchestrator.executors import Executor, open_executor, run_in_order
from tests.executors.clusters import Cluster, open_cluster, wait_until
from tests.ports import choose_free_ports


def square(number: int) -> int:
    if number < 0:
        raise ConfigError(f"{number} is below 0")
    return number * number


def begin_and_wait(folder: Path) -> int:
    """Say who runs it and wait to be killed; a second time return at once."""
    if (folder / "first").exists():
        return os.getpid()
    (folder / "new").write_text(str(os.getpid()))
    (folder / "new").rename(folder / "first")
    time.sleep(600)
    raise AssertionError("nobody killed this process")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["here", "processes", "dask"])
def execute(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "dask":
        with open_executor(dask=request.getfixturevalue("cluster").address) as execute:
            yield execute
    else:
        with open_executor(processes=2 if request.param == "processes" else 1) as execute:
            yield execute


def test_every_job_comes_back_with_its_result(execute: Executor) -> None:
    assert dict(execute(square, range(40))) == {number: number * number for number in range(40)}
    assert list(execute(square, [])) == []


def test_results_stand_in_the_order_of_jobs_that_may_be_alike(execute: Executor) -> None:
    assert run_in_order(execute, square, [3, 1, 3, 2]) == [9, 1, 9, 4]


def test_what_a_job_raises_reaches_who_asked(execute: Executor) -> None:
    with pytest.raises(ConfigError, match="-1 is below 0"):
        list(execute(square, [1, 2, -1, 3]))
    assert run_in_order(execute, square, [5]) == [25]


def test_who_stops_asking_is_done_soon(execute: Executor) -> None:
    for _, result in execute(square, range(10**9)):
        assert result >= 0
        break


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_who_is_killed_or_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    asks = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.executors import open_executor\n"
        "from tests.executors.test_executors import begin_and_wait\n"
        "if __name__ == '__main__':\n"
        "    with open_executor(processes=2) as execute: list(execute(begin_and_wait, [Path(sys.argv[1])]))\n"
    )
    (script := tmp_path / "asks.py").write_text(asks)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment) as asking:
        try:
            wait_until((tmp_path / "first").exists, "the job")
            asking.send_signal(number)
            wait_until(lambda: asking.poll() is not None, "the end of who asked")
        finally:
            asking.kill()
    worker = int((tmp_path / "first").read_text())
    wait_until(lambda: not psutil.pid_exists(worker), "the worker's end")


def test_what_a_killed_worker_had_runs_on_another(tmp_path: Path) -> None:
    with open_cluster(tmp_path) as cluster, open_executor(dask=cluster.address) as execute:
        results = execute(begin_and_wait, [tmp_path])

        def kill() -> None:
            wait_until((tmp_path / "first").exists, "the job")
            os.kill(int((tmp_path / "first").read_text()), 9)

        killer = threading.Thread(target=kill)
        killer.start()
        [(_, pid)] = results
        killer.join()
        assert pid != int((tmp_path / "first").read_text())


def test_a_process_that_is_killed_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(TransientError, match="one of the 2 processes was killed, as where memory runs out") as caught,
        open_executor(processes=2) as execute,
    ):
        results = execute(begin_and_wait, [tmp_path])

        def kill() -> None:
            wait_until((tmp_path / "first").exists, "the job")
            os.kill(int((tmp_path / "first").read_text()), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        list(results)
    killer.join()
    assert "\n" not in str(caught.value)


def test_a_scheduler_that_goes_away_is_told_in_one_line(tmp_path: Path) -> None:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    logging.getLogger("distributed.client").addHandler(handler)
    try:
        with (
            open_cluster(tmp_path) as cluster,
            pytest.raises(TransientError, match="the scheduler does not answer any more; look at its log") as caught,
            open_executor(dask=cluster.address) as execute,
        ):
            results = execute(begin_and_wait, [tmp_path])

            def kill() -> None:
                wait_until((tmp_path / "first").exists, "the job")
                cluster.kill_scheduler()

            killer = threading.Thread(target=kill)
            killer.start()
            list(results)
    finally:
        logging.getLogger("distributed.client").removeHandler(handler)
    killer.join()
    assert "\n" not in str(caught.value)
    assert logged == []


def test_workers_with_other_code_are_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_executor(dask=cluster.address) as execute:
        monkeypatch.setattr(executors, "SOURCE_DIGEST", "another")
        with pytest.raises(ConfigError, match="other code than this; install the same slim-scheduler"):
            list(execute(square, [1]))


def test_without_a_scheduler_or_a_worker_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CONNECT_S", 1.0)
    [port] = choose_free_ports(1)
    with open_cluster(tmp_path, workers=0) as cluster:
        for address, problem in (
            (f"tcp://127.0.0.1:{port}", "no scheduler answers within 1 s"),
            ("nowhere://x", "no scheduler answers"),
            (cluster.address, f"no worker came within 1 s; start some with 'dask worker {cluster.address}'"),
        ):
            with pytest.raises(ConfigError, match=problem), open_executor(dask=address):
                pass
