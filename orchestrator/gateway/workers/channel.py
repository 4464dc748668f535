"""Questions and answers between a gateway's supervisor and a worker, over a socket pair.

A line of JSON each; both sides may ask. When one process is gone, whatever ended it, the kernel closes its end, and the
other side's ``run`` returns: that is how either learns of the other's death. multiprocessing's connections would do the
same in blocking calls, and need a thread here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from orchestrator.errors import CapacityError, ConfigError, ServerUnavailableError, SlimError
from orchestrator.triton.errors import RefusedCallError

log = logging.getLogger(__name__)

Answers = Mapping[str, Callable[[Any], Awaitable[Any]]]

_LINE_LIMIT_BYTES = 2**26  # statistics of thousands of models
_GONE = "the process that was asked is gone"


class Channel:
    """One end of a channel between two processes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._is_closed = False

    @classmethod
    async def over(cls, end: socket.socket, answers: Answers) -> Self:
        """Return a channel over one end of a socket pair."""
        reader, writer = await asyncio.open_connection(sock=end, limit=_LINE_LIMIT_BYTES)
        return cls(reader, writer, answers)

    async def run(self) -> None:
        """Answer until the other side is gone, this one is closed, or what comes can't be understood."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for line in self._reader:
                    message = json.loads(line)
                    if "what" in message:
                        tasks.create_task(self._answer(message))
                    else:
                        self._settle(message)
        except* OSError:  # a killed process may reset it
            pass
        except* Exception:
            log.exception("a channel between processes failed unexpectedly and is closed")
        finally:
            self._is_closed = True
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ServerUnavailableError(_GONE, executed=False))
            self._writer.close()

    async def ask(self, what: str, body: Any = None, *, timeout_s: float) -> Any:
        """Return what the other side answers; raises its SlimError, as for a client, or one when it is late or gone."""
        if self._is_closed:
            raise ServerUnavailableError(_GONE, executed=False)
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"what": what, "number": number, "body": body})
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise ServerUnavailableError(f"no {what} from another process within {timeout_s:g} s") from None
        finally:
            del self._waiting[number]

    def notify(self, what: str, body: Any = None) -> None:
        """Send a message that needs no answer."""
        if not self._is_closed:
            self._send({"what": what, "number": None, "body": body})

    async def close(self) -> None:
        """Send what is still buffered, and end; never raises."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _answer(self, message: Mapping[str, Any]) -> None:
        number, reply = message["number"], {}
        try:
            reply["answer"] = await self._answers[message["what"]](message["body"])
        except SlimError as exc:
            reply["error"] = [_kind(exc), str(exc), exc.status if isinstance(exc, RefusedCallError) else None]
        except Exception as exc:
            log.exception("%s failed unexpectedly", message["what"])
            reply["error"] = ["SlimError", f"{type(exc).__name__}: {exc}", None]
        if number is not None and not self._is_closed:
            self._send({"number": number, **reply})

    def _settle(self, message: Mapping[str, Any]) -> None:
        future = self._waiting.get(message["number"])
        if future is None or future.done():  # nobody waits for it any more
            return
        if "error" in message:
            kind, text, status = message["error"]
            future.set_exception(RefusedCallError(status, text) if status else _KINDS[kind](text))
        else:
            future.set_result(message["answer"])


_KINDS: Mapping[str, Callable[[str], SlimError]] = {
    kind.__name__: kind for kind in (ConfigError, CapacityError, ServerUnavailableError, SlimError)
}


def _kind(error: SlimError) -> str:
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in _KINDS), "SlimError")
