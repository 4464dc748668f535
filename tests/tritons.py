"""Real Tritons for tests, on an event loop in a thread of its own.

Ending one takes two to three seconds, nearly all of them waiting: Triton looks at its exit timeout once a second, and
a stub takes a second to leave. So whoever no longer needs one goes on, and it ends meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.ports import with_ports

T = TypeVar("T")


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
        server = EmbeddedServer(repository, with_ports(options))
        self._run(server.start())
        try:
            yield server
        finally:
            self._ending.append(asyncio.run_coroutine_threadsafe(server.stop(), self._loop))

    def wait_exited(self, server: EmbeddedServer) -> str:
        """Wait until one that was killed is gone, and return how it ended."""
        return self._run(server.wait_exited())

    def wait_ended(self) -> None:
        """Wait until all that are ending are gone, and their ports are free."""
        while self._ending:
            self._ending.pop().result()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
