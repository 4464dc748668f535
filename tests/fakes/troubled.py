"""Servers that fail in the ways real ones do: hang, break, answer late, answer wrong, answer errors."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.errors import ConnectionLostError, ServerUnavailableError, TransientError
from orchestrator.snapshot import ServedModel
from tests.fakes.servers import FakeServer


class TroubledServer(FakeServer):
    """A fake server whose troubles are switched on and off while it works.

    Attributes:
        hangs: as after SIGSTOP, nothing is answered, not even what it serves, until it is switched off.
        hangs_quietly: batches are not answered, though it goes on telling what it serves.
        slowdown: batches take this many times longer.
        fails: batches are answered by an error, after their time.
        is_wrong: scores are those of another item.
        answered: batches it has answered, troubled or not.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.hangs = False
        self.hangs_quietly = False
        self.slowdown = 1.0
        self.fails = False
        self.is_wrong = False
        self.answered = 0
        self._broken = asyncio.Event()

    def service_s(self, width: int, items: int) -> float:
        return super().service_s(width, items) * self.slowdown

    def kill(self) -> None:
        """Break every connection, and refuse new ones."""
        self.is_up = False
        self._broken.set()

    def start(self) -> None:
        """Listen again."""
        self.is_up = True
        self._broken = asyncio.Event()

    async def served_models(self) -> tuple[ServedModel, ...]:
        while self.hangs:
            await asyncio.sleep(0.01)
        return await super().served_models()

    async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
        if not self.is_up:
            raise ServerUnavailableError("connection refused", executed=False)
        broken = asyncio.ensure_future(self._broken.wait())
        run = asyncio.ensure_future(self._run(model, batch))
        try:
            await asyncio.wait((broken, run), return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                raise ConnectionLostError("socket closed")
            return await run
        finally:
            broken.cancel()
            run.cancel()
            await asyncio.gather(broken, run, return_exceptions=True)

    async def _run(self, model: ServedModel, batch: Any) -> Any:
        while self.hangs or self.hangs_quietly:
            await asyncio.sleep(0.01)
        outputs = await super().infer_batch(model, batch)
        while self.hangs or self.hangs_quietly:
            await asyncio.sleep(0.01)
        self.answered += 1
        if self.fails:
            raise TransientError("out of memory")
        return tuple(output[:, ::-1] * 0.5 for output in outputs) if self.is_wrong else outputs
