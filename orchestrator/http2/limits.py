"""What one peer may take of us."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one connection.

    Attributes:
        max_streams: calls under way at a time; a call that was reset counts until it has really ended.
        stream_window_bytes: bytes that may come on a stream before any are taken.
        connection_window_bytes: likewise on all streams of a connection together.
        header_list_bytes: size of a header list, by HPACK's count.
        handshake_s: how long the first SETTINGS may take, and a header block to come whole.
        stall_s: how long a peer may take to accept or send the next piece of what it has begun.
        quiet_s: silence after which the peer is pinged.
        ping_s: how long the answer to a ping may take.
        idle_faults: pings, resets and empty frames at once; a peer beyond is sent away.
        idle_faults_per_s: likewise in the long run.
    """

    max_streams: int = 1024
    stream_window_bytes: int = _MIB
    connection_window_bytes: int = 16 * _MIB
    header_list_bytes: int = 16 * 1024
    handshake_s: float = 10.0
    stall_s: float = 30.0
    quiet_s: float = 60.0
    ping_s: float = 20.0
    idle_faults: int = 2000
    idle_faults_per_s: float = 1000.0
