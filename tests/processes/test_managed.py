"""What is kept running, with runs that end when a test says so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import pytest

from orchestrator.errors import ServerUnavailableError
from orchestrator.processes.managed import ManagedProcess, State

pytestmark = pytest.mark.virtual_time


class FakeRun:
    """Starts, unless there is a reason why not, and goes on until it is ended."""

    def __init__(self, number: int, trouble: str | OSError | None) -> None:
        self.pid: int | None = 100 + number
        self.stops = 0
        self.report: Callable[[str], object] = str
        self._trouble = trouble
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await asyncio.sleep(1.0)
        if self._trouble is not None:
            raise self._trouble if isinstance(self._trouble, OSError) else ServerUnavailableError(self._trouble)
        self.report("started")

    async def wait_exited(self) -> str:
        return await self._end

    async def stop(self) -> None:
        self.stops += 1
        self.report("ended")

    def signal(self, number: signal.Signals) -> None:
        self.report(f"had {number.name}")

    def end(self) -> None:
        self._end.set_result("was killed by SIGKILL")


class FakeRuns:
    """Makes them; those of ``troubles`` do not start."""

    def __init__(self, troubles: Sequence[str | OSError | None] = ()) -> None:
        self.made: list[FakeRun] = []
        self.at_s: list[float] = []
        self._troubles = dict(enumerate(troubles))

    def __call__(self) -> FakeRun:
        self.at_s.append(asyncio.get_running_loop().time())
        self.made.append(FakeRun(len(self.made), self._troubles.get(len(self.made))))
        return self.made[-1]


async def test_what_dies_after_a_long_run_is_started_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns()
    process = ManagedProcess("local-0", runs)
    await process.start()
    assert (process.state, process.pid, process.restarts) == (State.RUNNING, 100, 0)
    await asyncio.sleep(60)
    runs.made[0].end()
    await asyncio.sleep(0.5)
    assert (process.state, process.pid) == (State.STARTING, None)
    await asyncio.sleep(1.0)
    assert (process.state, process.pid, process.restarts) == (State.RUNNING, 101, 1)
    assert runs.made[0].stops == 1, "what it left behind is cleared away"
    assert "local-0 was killed by SIGKILL; started again" in caplog.messages
    await process.stop()
    assert (process.state, runs.made[1].stops) == (State.ENDED, 1)


async def test_its_owner_words_the_restart(caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns()
    process = ManagedProcess("worker 0", runs, word_restart="again in {:g} s".format)
    await process.start()
    runs.made[0].end()
    await asyncio.sleep(1.0)
    assert "worker 0 was killed by SIGKILL; again in 0.25 s" in caplog.messages
    await process.stop()


async def test_pauses_grow_while_it_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns([None, "port in use", "port in use", "port in use"])
    process = ManagedProcess("gateway", runs)
    await process.start()
    runs.made[0].end()
    await asyncio.sleep(30)
    assert process.state is State.RUNNING
    assert process.restarts == 4
    starts = [later - earlier - 1.0 for earlier, later in zip(runs.at_s, runs.at_s[1:], strict=False)]
    assert starts == pytest.approx([0.25, 0.5, 1.0, 2.0])
    assert any("gateway did not start: port in use" in message for message in caplog.messages)
    await process.stop()


async def test_it_is_tried_again_when_the_system_has_no_room_for_a_process(caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns([None, OSError("Too many open files")])
    process = ManagedProcess("gateway", runs)
    await process.start()
    runs.made[0].end()
    await asyncio.sleep(30)
    assert (process.state, process.restarts) == (State.RUNNING, 2)
    assert any("gateway did not start: Too many open files" in message for message in caplog.messages)
    await process.stop()


async def test_one_that_never_started_is_not_kept_and_leaves_nothing() -> None:
    runs = FakeRuns(["no such repository"])
    process = ManagedProcess("local-0", runs)
    with pytest.raises(ServerUnavailableError, match="no such repository"):
        await process.start()
    assert runs.made[0].stops == 1
    await asyncio.sleep(100)
    assert len(runs.made) == 1
    await process.stop()


@pytest.mark.parametrize("after_s", [0.3, 1.1, 1.3, 5.0])
async def test_stopping_at_any_moment_ends_the_run_and_the_supervision(after_s: float) -> None:
    """While it runs, waits for its next run, starts that, and is in it."""
    runs = FakeRuns()
    process = ManagedProcess("local-0", runs)
    await process.start()
    runs.made[0].end()
    await asyncio.sleep(after_s)
    await process.stop()
    known = len(runs.made)
    assert runs.made[-1].stops >= 1
    await asyncio.sleep(100)
    assert (len(runs.made), process.state) == (known, State.ENDED)
