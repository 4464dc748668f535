"""What one peer may take of us."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection.

    Attributes:
        max_streams: calls under way at a time; a call that was reset counts until it has really ended.
        stream_window_bytes: that may come on a stream before it was taken.
        connection_window_bytes: likewise on all streams of a connection.
        header_list_bytes: of a header list, by HPACK's count.
        handshake_s: until the first SETTINGS, and for a header block to come whole.
        stall_s: for a peer to take or send the next piece of what it has begun.
        quiet_s: without a sign of life, then the peer is pinged.
        ping_s: for the answer to a ping.
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
