"""When answers came to a caller's socket, as the kernel notes it.

A sender shares its machine with what it measures, and waits for a core like everything else there: on two busy ones it
reads answers 5 to 30 ms after they came. That is the sender's time and no server's, so the kernel is asked when it
received what is read (SO_TIMESTAMPNS, Linux). Of what is read at once it says when the last of it came.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Final

_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h; Python has no name for it
_TIMESPEC: Final = struct.Struct("@ll")
_ANCILLARY_BYTES: Final = 64


class ReceiveTimes:
    """The sockets of one channel, one after another.

    Attributes:
        last_s: When what was last read of them came, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.last_s = 0.0

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected socket that notes when what it reads came; raises OSError."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        made = _NotingSocket(family, kind, protocol, times=self)
        try:
            made.setblocking(False)
            made.note_times()
            await loop.sock_connect(made, address)
        except BaseException:
            made.close()
            raise
        return made

    def note(self, received_s: float) -> None:
        """Note when something came by the wall clock, which may have been set since: it was not after now."""
        now_s = time.monotonic()
        self.last_s = min(now_s, max(self.last_s, received_s + now_s - time.time()))


class _NotingSocket(socket.socket):
    """A socket whose reads are noted, as a selector loop makes them for a streaming asyncio.Protocol."""

    def __init__(self, family: int, kind: int, protocol: int, *, times: ReceiveTimes) -> None:
        super().__init__(family, kind, protocol)
        self._times = times

    def note_times(self) -> None:
        """Ask the kernel for the times, where it has them."""
        try:
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except OSError:  # then what is read came now
            return

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data, ancillary, _, _ = self.recvmsg(size, _ANCILLARY_BYTES, flags)
        self._note(ancillary)
        return data

    def _note(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                self._times.note(seconds + nanoseconds * 1e-9)
                return
        self._times.note(time.time())
