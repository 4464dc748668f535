"""Ports of the loopback interface that nobody else on the machine is given before a test listens on them.

Who chooses a free port and listens on it later may find it taken, because the kernel gives free ports to whoever asks
for any, and several processes run tests at once. So each process of tests has a block of ports of its own, below those
that Linux gives away by default (from 32768 on). It owns a block while it holds the block's first port, which the
kernel takes back however the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.embedded.server import EmbeddedOptions

_FIRST, _END, _BLOCK = 12_000, 32_000, 1_000


def choose_free_ports(count: int) -> tuple[int, ...]:
    """Return so many ports that nobody listens on, and that this process has not had for longest."""
    return tuple(itertools.islice(filter(_is_free, _own_ports()), count))


def choose_free_port() -> int:
    """Return one such port."""
    return choose_free_ports(1)[0]


def with_ports(options: EmbeddedOptions) -> EmbeddedOptions:
    """Return the options of an embedded server with such a port wherever it would choose one of the kernel's."""
    chosen = zip(("grpc_port", "http_port", "metrics_port"), choose_free_ports(3), strict=True)
    return replace(options, **{name: port for name, port in chosen if getattr(options, name) is None})


@functools.cache
def _own_ports() -> Iterator[int]:
    for first in range(_FIRST, _END, _BLOCK):
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", first))
        except OSError:
            holder.close()
            continue
        holder.detach()  # it stays bound until this process ends
        return itertools.cycle(range(first + 1, first + _BLOCK))
    raise RuntimeError(f"all blocks of ports from {_FIRST} to {_END} are taken; does anything else use them?")


def _is_free(port: int) -> bool:
    # Without SO_REUSEADDR, so that a port with remains of old connections is none.
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
