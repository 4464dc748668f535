"""Real Tritons for tests, on an event loop in a thread of its own.

Ending one takes two to three seconds, nearly all of them waiting: Triton looks at its exit timeout once a second, and
a stub takes a second to leave. So whoever no longer needs one goes on, and it ends meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer


class Tritons:
    """Starts Tritons and sees them end; at its own end all of them are gone."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tritons")
        self._ending: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait_ended()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @contextmanager
    def running(self, repository: Path, options: EmbeddedOptions) -> Iterator[EmbeddedServer]:
        """Run a Triton; it begins to end with the block, and has ended after ``wait_ended``."""
        server = EmbeddedServer(repository, options)
        asyncio.run_coroutine_threadsafe(server.__aenter__(), self._loop).result()
        try:
            yield server
        finally:
            self._ending.append(asyncio.run_coroutine_threadsafe(server.stop(), self._loop))

    def wait_ended(self) -> None:
        """Wait until all that are ending are gone, and their ports are free."""
        while self._ending:
            self._ending.pop().result()
