"""Sockets that are open before a program begins, as systemd gives them to a service."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


def bind(address: str) -> socket.socket:
    """Return a socket that listens, as one of a socket unit does before its service was ever started."""
    host, _, port = address.rpartition(":")
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((host, int(port)))
    one.listen(1024)
    return one


def start_with_sockets(
    sockets: Mapping[str, Sequence[socket.socket]], command: Sequence[str], **more: Any
) -> subprocess.Popen[str]:
    """Start a program with descriptors from 3 on, their names, and the process id of the program itself."""
    named = [(kind, one) for kind, many in sockets.items() for one in many]
    moves = " ".join(f"{3 + number}<&{one.fileno()}" for number, (_, one) in enumerate(named))
    given = f"LISTEN_FDS={len(named)} LISTEN_FDNAMES={':'.join(kind for kind, _ in named)} LISTEN_PID=$$"
    script = f'export {given}; exec "$@" {moves}'
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        env=os.environ,
        pass_fds=[one.fileno() for _, one in named],
        text=True,
        **more,
    )
