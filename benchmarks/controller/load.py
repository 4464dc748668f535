"""Closed loops that account for every single answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from orchestrator.errors import SlimError
from orchestrator.triton.client import TritonClient

INPUT, OUTPUT, ITEM_SHAPE = "pixels", "logits", (1, 28, 28)
FAILURES_KEPT = 5
FAILURE_PAUSE_S = 0.05
"""After a failure, so that a dead server is not asked thousands of times a second."""
DRAIN_S = 30.0
"""At the end of a load, for what is under way."""


@dataclass(slots=True)
class Answers:
    """What became of the requests of a load.

    Attributes:
        answered: Requests that were answered with success.
        failed: Requests that ended with an error.
        examples: Messages of the first few failures.
    """

    answered: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)

    def note_failure(self, reason: str) -> None:
        """Count a failure."""
        self.failed += 1
        if len(self.examples) < FAILURES_KEPT:
            self.examples.append(reason)


@dataclass(frozen=True, slots=True)
class Stream:
    """Closed loops to one model.

    Attributes:
        model: The model that is asked.
        loops: How many loops there are; each sends its next request when its last was answered.
        batch: Items in a request.
        pause_s: Time between an answer and the next request.
    """

    model: str
    loops: int
    batch: int = 1
    pause_s: float = 0.0


@asynccontextmanager
async def closed_loops(address: str, streams: Sequence[Stream]) -> AsyncIterator[Answers]:
    """Send as long as the block runs; what is under way at its end is waited for and counted too."""
    answers, stop = Answers(), asyncio.Event()
    client = TritonClient(address)
    loops = [stream for stream in streams for _ in range(stream.loops)]
    tasks = [asyncio.create_task(_send(client, stream, answers, stop), name="load") for stream in loops]
    try:
        yield answers
    finally:
        stop.set()
        # No TaskGroup: a request that is never answered must end up in the count, not hold the run up for ever.
        done, pending = await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in pending:
            task.cancel()
            answers.note_failure(f"not answered within {DRAIN_S:g} s")
        await asyncio.gather(*pending, return_exceptions=True)
        await client.close()
        for task in done:
            task.result()


async def _send(client: TritonClient, stream: Stream, answers: Answers, stop: asyncio.Event) -> None:
    items = np.random.default_rng(0).random((stream.batch, *ITEM_SHAPE), np.float32)
    while not stop.is_set():
        try:
            await client.infer(stream.model, {INPUT: items}, (OUTPUT,))
            answers.answered += 1
            await asyncio.sleep(stream.pause_s)
        except SlimError as exc:
            answers.note_failure(str(exc))
            await asyncio.sleep(FAILURE_PAUSE_S)
