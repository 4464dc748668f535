"""What a process tells whoever has started it: that it serves now.

That it listens does not say so where somebody else holds its sockets. The protocol is systemd's (``sd_notify``), so a
unit of type ``notify`` and a process of ours learn of it in one way.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, MutableMapping
from typing import Self

_VARIABLE = "NOTIFY_SOCKET"
_READY = b"READY=1"
_MESSAGE_BYTES = 4096


class Announcement:
    """The word of this process that it serves; taken out of its environment, because no child of its has to say it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._place = environment.pop(_VARIABLE, "")

    def say_ready(self) -> None:
        """Say it where somebody waits for it; who has gone meanwhile does not matter."""
        if self._place:
            place = f"\0{self._place[1:]}" if self._place.startswith("@") else self._place
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end, contextlib.suppress(OSError):
                end.sendto(_READY, place)


class Hearing:
    """Where a child says that it serves, while the context is open.

    The name is the kernel's, and no file. Another user's process could say it in the child's place, which makes one
    line of a log come too early and nothing else.

    Attributes:
        environment: What the child has to be given to know where.
    """

    def __init__(self) -> None:
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.setblocking(False)
        self._end.bind("")
        self._is_heard = False
        self.environment: Mapping[str, str] = {_VARIABLE: f"@{self._end.getsockname()[1:].decode()}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.close()

    async def is_heard(self) -> bool:
        """Return whether the child has said it."""
        with contextlib.suppress(BlockingIOError):
            while not self._is_heard:
                self._is_heard = _READY in self._end.recv(_MESSAGE_BYTES).splitlines()
        return self._is_heard
