"""What is kept running, with lives that end when a test says so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import pytest

from orchestrator.embedded.stack_processes import Part, State
from orchestrator.errors import ServerUnavailableError

pytestmark = pytest.mark.virtual_time


class FakeLife:
    """Starts, unless it is told why not, and lives until it is ended."""

    def __init__(self, number: int, trouble: str | None) -> None:
        self.pid: int | None = 100 + number
        self.stops = 0
        self.is_killed = False
        self.tell: Callable[[str], object] = str
        self._trouble = trouble
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await asyncio.sleep(1.0)
        if self._trouble is not None:
            raise ServerUnavailableError(self._trouble)
        self.tell("started")

    async def wait_exited(self) -> str:
        return await self._end

    async def stop(self) -> None:
        self.stops += 1
        self.tell("ended")

    def signal(self, number: signal.Signals) -> None:
        self.tell(f"had {number.name}")

    def kill(self) -> None:
        self.is_killed = True

    def end(self) -> None:
        self._end.set_result("was killed by SIGKILL")


class Lives:
    """Makes them; those of ``troubles`` do not start."""

    def __init__(self, troubles: Sequence[str | None] = ()) -> None:
        self.made: list[FakeLife] = []
        self.at_s: list[float] = []
        self._troubles = dict(enumerate(troubles))

    def __call__(self) -> FakeLife:
        self.at_s.append(asyncio.get_running_loop().time())
        self.made.append(FakeLife(len(self.made), self._troubles.get(len(self.made))))
        return self.made[-1]


async def test_what_dies_after_a_long_life_is_started_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    lives = Lives()
    part = Part("local-0", "here", lives)
    await part.start()
    assert (part.state, part.pid, part.restarts) == (State.RUNNING, 100, 0)
    await asyncio.sleep(60)
    lives.made[0].end()
    await asyncio.sleep(0.5)
    assert (part.state, part.pid) == (State.STARTING, None)
    await asyncio.sleep(1.0)
    assert (part.state, part.pid, part.restarts) == (State.RUNNING, 101, 1)
    assert lives.made[0].stops == 1, "what it left behind is cleared away"
    assert "local-0 was killed by SIGKILL; started again" in caplog.messages
    await part.stop()
    assert (part.state, lives.made[1].stops) == (State.ENDED, 1)


async def test_pauses_grow_while_it_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    lives = Lives([None, "port in use", "port in use", "port in use"])
    part = Part("gateway", "here", lives)
    await part.start()
    lives.made[0].end()
    await asyncio.sleep(30)
    assert part.state is State.RUNNING
    assert part.restarts == 4
    starts = [later - earlier - 1.0 for earlier, later in zip(lives.at_s, lives.at_s[1:], strict=False)]
    assert starts == pytest.approx([0.25, 0.5, 1.0, 2.0])
    assert any("gateway did not start: port in use" in message for message in caplog.messages)
    await part.stop()


async def test_one_that_never_started_is_no_part_and_leaves_nothing() -> None:
    lives = Lives(["no such repository"])
    part = Part("local-0", "here", lives)
    with pytest.raises(ServerUnavailableError, match="no such repository"):
        await part.start()
    assert lives.made[0].stops == 1
    await asyncio.sleep(100)
    assert len(lives.made) == 1
    await part.stop()


@pytest.mark.parametrize("after_s", [0.3, 1.1, 1.3, 5.0])
async def test_stopping_at_any_moment_ends_the_life_and_the_keeping(after_s: float) -> None:
    """While it lives, waits for its next life, starts that, and lives it."""
    lives = Lives()
    part = Part("local-0", "here", lives)
    await part.start()
    lives.made[0].end()
    await asyncio.sleep(after_s)
    await part.stop()
    known = len(lives.made)
    assert lives.made[-1].stops >= 1
    await asyncio.sleep(100)
    assert (len(lives.made), part.state) == (known, State.ENDED)
