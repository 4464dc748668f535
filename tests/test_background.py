"""Work in the background that fails, and is neither lost nor hidden."""

from __future__ import annotations

import asyncio
import logging

import pytest

from orchestrator.background import PAUSE_S, BackgroundTasks

pytestmark = pytest.mark.virtual_time


async def test_work_that_fails_is_logged_counted_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    noted: list[str] = []
    tasks = BackgroundTasks(noted.append)
    begun_s: list[float] = []

    async def work() -> None:
        begun_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        raise ZeroDivisionError("of all things")

    tasks.start("looking", work)
    await asyncio.sleep(1.0 + 2 * (1.0 + PAUSE_S) + 0.5)
    await tasks.stop()
    assert [at_s - begun_s[0] for at_s in begun_s] == pytest.approx([0.0, 1.0 + PAUSE_S, 2 * (1.0 + PAUSE_S)])
    assert (dict(tasks.failures), noted) == ({"looking": 3}, ["looking"] * 3)
    record = caplog.records[0]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "looking failed unexpectedly and begins again")
    assert record.exc_info is not None
    assert "of all things" in str(record.exc_info[1])


async def test_work_that_is_done_is_over_and_other_work_goes_on() -> None:
    tasks, ticks = BackgroundTasks(), 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(1.0)
            ticks += 1

    async def once() -> None:
        await asyncio.sleep(0.5)

    tasks.start("ticking", tick)
    await tasks.start("once", once)
    await asyncio.sleep(3.1)
    await tasks.stop()
    assert (ticks, dict(tasks.failures)) == (3, {})
    await asyncio.sleep(5.0)
    assert ticks == 3, "stopped means stopped"
