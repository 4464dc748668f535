"""When an answer came is the kernel's word, and no later than when it was read."""

from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
import pytest

from orchestrator.http2.grpc.wire import RpcError
from orchestrator.loadgen.clients import Asked, GrpcClient, _note_refusal, _RefusedError
from orchestrator.loadgen.receive_times import ReceiveTimes

QUIET_S = 0.3
TRIES = 20


async def test_what_lies_unread_came_when_it_came() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        times = ReceiveTimes()
        made = await times.connect("127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        with made, peer:
            # The kernel begins to note times some moments after it was first asked to, for all sockets.
            for _ in range(TRIES):
                before_s = time.monotonic()
                peer.sendall(b"first")
                by_s = time.monotonic()
                time.sleep(QUIET_S)  # nobody reads meanwhile
                assert made.recv(100) == b"first"
                if times.last_s <= by_s + QUIET_S / 2:
                    break
            assert before_s - 0.01 <= times.last_s <= by_s + QUIET_S / 2 < time.monotonic()
            peer.sendall(b"second")
            assert await asyncio.get_running_loop().sock_recv(made, 100) == b"second"
            assert times.last_s > by_s


async def test_nobody_there_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await ReceiveTimes().connect("127.0.0.1", port)


def test_a_wall_clock_that_was_set_meanwhile_leaves_times_in_order() -> None:
    times = ReceiveTimes()
    times.note(time.time() + 3600)
    assert times.last_s <= time.monotonic()
    last_s = times.last_s
    times.note(time.time() - 3600)
    assert times.last_s == last_s


async def test_a_lost_connection_ends_when_it_is_noticed_and_a_refusal_when_it_came() -> None:
    client = GrpcClient("127.0.0.1:1", Asked("fashion", [], [], True), [np.zeros((0, 1))], {})
    times = ReceiveTimes()
    times.last_s = 7.0
    lost = _note_refusal(times, RpcError("UNAVAILABLE", "the connection was lost"))
    refused = _note_refusal(times, RpcError("RESOURCE_EXHAUSTED", "too much", retry_after_s=1.0))
    assert client.received_s(lost) is None
    assert client.received_s(refused) == 7.0
    assert isinstance(refused, _RefusedError)
    assert (refused.status, refused.detail, refused.retry_after_s) == ("RESOURCE_EXHAUSTED", "too much", 1.0)
    await client.close()
