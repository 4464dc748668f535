"""Questions and answers between two processes; here both ends are in one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.errors import ConfigError, ServerUnavailableError, SlimError
from orchestrator.gateway.workers.channel import Answers, Channel
from orchestrator.triton.errors import RefusedCallError


async def never(body: Any) -> None:
    await asyncio.Event().wait()


async def echo(body: Any) -> Any:
    return body


async def refuse(body: str) -> None:
    raise {
        "config": ConfigError("no such key"),
        "status": RefusedCallError("UNIMPLEMENTED", "not here"),
        "bug": ZeroDivisionError("oops"),
    }[body]


@asynccontextmanager
async def pair(answers: Answers) -> AsyncIterator[tuple[Channel, Channel, asyncio.Task[None]]]:
    """Yield both ends, the second of which answers, and the task that runs it."""
    ours, theirs = socket.socketpair()
    asking, answering = await Channel.over(ours, {}), await Channel.over(theirs, answers)
    tasks = [asyncio.create_task(channel.run()) for channel in (asking, answering)]
    try:
        yield asking, answering, tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_answers_find_their_questions() -> None:
    async def late(body: float) -> float:
        await asyncio.sleep(body)
        return body

    async with pair({"late": late}) as (channel, _, _):
        waits = [0.03, 0.0, 0.01]
        assert await asyncio.gather(*(channel.ask("late", w, timeout_s=5) for w in waits)) == waits


async def test_a_megabyte_fits_in_a_line() -> None:
    async with pair({"echo": echo}) as (channel, _, _):
        assert len(await channel.ask("echo", "x" * 2**20, timeout_s=5)) == 2**20


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [("config", ConfigError, "no such key"), ("status", RefusedCallError, "not here"), ("bug", SlimError, "oops")],
)
async def test_errors_come_back_as_what_they_were(what: str, kind: type[SlimError], text: str) -> None:
    async with pair({"refuse": refuse}) as (channel, _, _):
        with pytest.raises(kind, match=text) as caught:
            await channel.ask("refuse", what, timeout_s=5)
        assert getattr(caught.value, "status", None) == ("UNIMPLEMENTED" if what == "status" else None)


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async with pair({"never": never}) as (channel, _, _):
        with pytest.raises(ServerUnavailableError, match=r"no never .* within 0.02 s"):
            await channel.ask("never", timeout_s=0.02)


async def test_a_question_ends_with_the_process_that_was_asked() -> None:
    async with pair({"never": never}) as (channel, _, answering):
        question = asyncio.create_task(channel.ask("never", timeout_s=30))
        await asyncio.sleep(0.01)
        answering.cancel()
        with pytest.raises(ServerUnavailableError, match="gone"):
            await question
        with pytest.raises(ServerUnavailableError, match="gone"):
            await channel.ask("never", timeout_s=30)
        channel.notify("nothing to nobody")


async def test_what_is_told_before_closing_arrives() -> None:
    heard: list[int] = []

    async def hear(body: int) -> None:
        heard.append(body)

    async with pair({"hear": hear}) as (channel, _, answering):
        for number in range(100):
            channel.notify("hear", number)
        await channel.close()
        await answering
    assert heard == list(range(100))
