"""What one connection may take of a turn of the event loop, and what it is charged for."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h2.settings
import pytest

from orchestrator.http2.connection import TURN_FRAMES, Connection
from orchestrator.http2.flow import MOST_OUT_BYTES
from orchestrator.http2.frames import (
    DATA,
    HEADERS,
    PING,
    PREFACE,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS, RequestHead, pack_message
from orchestrator.http2.loop_lag import PERIOD_S, LoopLag
from orchestrator.http2.protocol import LATER_FRAMES, Backlog, Http2Protocol
from orchestrator.http2.stream import Stream
from tests.http2.peer import Joined, OurEnd, Recorder, raw_request
from tests.http2.test_loop_lag import HandTurnedLoop
from tests.http2.test_misbehaviour import block
from tests.http2.world import BLOCK, World

BEGIN = PREFACE + settings_frame([])
UPDATE = window_update_frame(0, 1)


def test_a_turn_takes_so_many_frames_and_later_turns_take_the_rest_in_order() -> None:
    ends = Joined(accept=lambda stream, head: recorder(stream, head))
    found: list[int] = []

    def recorder(stream: Stream, head: RequestHead) -> Recorder:
        found.append(stream.id)
        return Recorder(stream, head, credits=True)

    requests = b"".join(raw_request(number, BLOCK) for number in range(1, 1201, 2))
    cut = len(requests) - 5
    turns = [ends.connection.receive(requests[:cut])]
    counts = [len(found)]
    turns.append(ends.connection.receive(requests[cut:]))
    counts.append(len(found))
    turns.append(ends.connection.receive(b""))
    assert turns == [True, True, False]
    assert counts == [TURN_FRAMES, 2 * TURN_FRAMES]
    assert found == list(range(1, 1201, 2))


def test_a_turn_takes_no_further_frame_when_those_before_took_long() -> None:
    found: list[int] = []

    def slow(stream: Stream, head: RequestHead) -> None:
        found.append(stream.id)
        ours.now_s += 0.01

    ours = OurEnd(accept=slow)
    assert not ours.connection.receive(BEGIN)
    assert ours.connection.receive(b"".join(raw_request(number, BLOCK) for number in range(1, 41, 2)))
    assert len(found) == 3
    while ours.connection.receive(b""):
        assert len(found) % 3 == 0
    assert len(found) == 20


def test_a_turn_writes_so_much_of_large_answers_and_later_turns_the_rest() -> None:
    ours = OurEnd()
    widest = 2**31 - 1
    ours.connection.receive(PREFACE + settings_frame([(4, widest)]) + window_update_frame(0, widest - 65535))
    ours.connection.take_out()
    for number in (1, 3):
        ours.connection.receive(raw_request(number, BLOCK))
        ours.calls[-1].stream.respond(RESPONSE_HEADERS, bytes(4 * 2**20), OK_TRAILERS)
    ours.wakes, turns = 1, 0
    while data := ours.connection.take_out():
        assert len(data) < MOST_OUT_BYTES + 2**16
        turns += 1
    assert ours.wakes == turns >= 8, "what is left asks for another turn"
    assert ours.connection.is_idle


class Wire:
    """A transport that notes what is done to it."""

    def __init__(self, connected: socket.socket | None = None) -> None:
        self.connected = connected
        self.is_reading = True
        self.is_closed = False
        self.written = b""

    def get_extra_info(self, name: str) -> Any:
        return self.connected if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is ever held back."""

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


def open_protocol(
    backlog: Backlog, lag: LoopLag | None = None, connected: socket.socket | None = None
) -> tuple[Http2Protocol, Wire]:
    ours = OurEnd()

    def make(wake: Any) -> Connection[RequestHead]:
        return ours.connection

    protocol = Http2Protocol(make, lambda made: True, lambda lost: None, backlog=backlog, lag=lag)
    wire: Any = Wire(connected)
    protocol.connection_made(wire)
    protocol.data_received(BEGIN)
    return protocol, wire


async def test_who_floods_is_not_read_until_all_is_taken_and_takes_turns_with_those_who_do() -> None:
    backlog = Backlog()
    pairs = [open_protocol(backlog) for _ in range(3)]
    connections = [protocol.connection for protocol, _ in pairs]
    size = 5 * TURN_FRAMES
    for protocol, wire in pairs:
        protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, b"x") * size)
        assert not wire.is_reading
        assert not protocol.is_idle

    def taken() -> list[int]:
        windows = [connection.receive_window if connection else 0 for connection in connections]
        return [16 * 2**20 - window for window in windows]

    before, shares = taken(), []
    while any(not wire.is_reading for _, wire in pairs):
        await asyncio.sleep(0)
        now = taken()
        shares.append([n - b for n, b in zip(now, before, strict=True)])
        before = now
    assert max(map(sum, shares)) == LATER_FRAMES, "one share a turn"
    assert [share.index(max(share)) for share in shares[:6]] == [0, 1, 2, 0, 1, 2]
    assert before == [size] * 3


async def test_who_takes_nothing_is_not_read_on_and_goes_on_afterwards() -> None:
    protocol, wire = open_protocol(Backlog())
    protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, b"x") * 3 * TURN_FRAMES)
    protocol.pause_writing()
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.connection is not None
    assert protocol.connection.receive_window == 16 * 2**20 - TURN_FRAMES + 1
    protocol.resume_writing()
    assert not wire.is_reading
    for _ in range(15):
        await asyncio.sleep(0)
    assert protocol.connection.receive_window == 16 * 2**20 - 3 * TURN_FRAMES
    assert wire.is_reading


async def test_who_waits_for_its_turn_is_not_held_to_have_stalled() -> None:
    backlog = Backlog()
    protocol, _ = open_protocol(backlog)
    protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, b"x") * 2 * TURN_FRAMES)
    assert isinstance(protocol.connection, Connection)
    protocol.connection.streams[1].progress_s = -1000.0
    protocol.check(late_s=0.0)
    assert not protocol.connection.is_idle
    for _ in range(15):
        await asyncio.sleep(0)
    protocol.connection.streams[1].progress_s = -1000.0
    protocol.check(late_s=0.0)
    assert protocol.connection.is_idle


@pytest.mark.parametrize("late_s", [0.0, 100.0])
async def test_a_process_that_stood_still_holds_it_against_nobody(late_s: float) -> None:
    """What comes meanwhile may be looked for only after the look at who has stalled."""
    is_kept = late_s > 0
    a_ping, a_body, a_block = ours = [OurEnd(quiet_s=50.0) for _ in range(3)]
    for each, data in zip(ours, (b"", raw_request(1, BLOCK, flags=4), raw_request(1, BLOCK, flags=0)), strict=True):
        each.connection.receive(BEGIN + data)
        each.now_s = 1.0 if data else 51.0
        each.connection.check()
        each.now_s += 100.0
        each.connection.check(late_s=late_s)
    assert a_body.calls[0].aborted is (None if is_kept else ErrorCode.CANCEL)
    assert [end.connection.violation is None for end in (a_ping, a_block)] == [is_kept, is_kept]
    protocol, wire = open_protocol(Backlog())
    protocol.pause_writing()
    protocol.paused_since_s = asyncio.get_running_loop().time() - 100.0
    protocol.check(late_s=late_s)
    assert wire.is_closed is not is_kept


async def test_a_flood_that_is_charged_for_ends_the_connection_from_the_backlog() -> None:
    protocol, wire = open_protocol(Backlog())
    protocol.data_received(frame(PING, 0, 0, bytes(8)) * 3000)
    for _ in range(50):
        await asyncio.sleep(0)
    assert wire.is_closed
    assert wire.written.endswith(b"too many resets, pings, empty frames or refused calls")


def calls(head: bytes, *after: bytes, flags: int = 4) -> bytes:
    """Return three thousand calls; in what comes after each head 0x7FFFFFFE stands for its number."""
    parts = []
    for number in range(3, 6003, 2):
        parts.append(raw_request(number, head, flags=flags))
        parts += [part.replace(b"\x7f\xff\xff\xfe", number.to_bytes(4, "big")) for part in after]
    return b"".join(parts)


OF_IT = 0x7FFFFFFE
FLOODS = {
    "windows that grow": UPDATE * 3000,
    "windows of a stream that grow": raw_request(1, BLOCK, flags=4) + window_update_frame(1, 1) * 3000,
    "windows of closed streams": raw_request(1, BLOCK) + rst_stream_frame(1, ErrorCode.CANCEL)
    + window_update_frame(1, 1) * 3000,
    "data on a closed stream": raw_request(1, BLOCK) + rst_stream_frame(1, ErrorCode.CANCEL)
    + frame(DATA, 0, 1, b"x") * 3000,
    "ends of a closed stream": raw_request(1, BLOCK) + rst_stream_frame(1, ErrorCode.CANCEL) + frame(DATA, 1, 1) * 3000,
    "malformed heads": calls(b"\x83\x86", flags=5),
    "heads that are no gRPC": calls(b"\x83\x86\x84", flags=5),
    "heads that are too large": calls(block("/s/Echo", ("x", "y" * 17000)), flags=5),
    "calls of strangers": calls(block("/s/Echo", ("x-stranger", "yes")), flags=5),
    "calls of no method": calls(block("/s/Nothing"), flags=5),
    "lies about the length": calls(block("/s/Echo", ("content-length", "9")), frame(DATA, 1, OF_IT, b"x")),
    "more data than allowed": calls(block("/s/Echo"), frame(DATA, 0, OF_IT, pack_message(b"x") + b"more")),
    "large blocks": calls(block("/s/Echo", ("x", "y" * 9000)), frame(DATA, 1, OF_IT, pack_message(b""))),
    "windows of many streams": b"".join(raw_request(number, BLOCK, flags=4) for number in range(1, 1601, 2))
    + b"".join(settings_frame([(4, size)]) for size in range(100)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
async def test_what_brings_nobody_an_answer_is_charged_for(name: str) -> None:
    ends = Joined(accept=World().service.accept)
    ends.send(FLOODS[name])
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.ENHANCE_YOUR_CALM
    await asyncio.sleep(0)


async def test_who_widens_windows_for_what_it_took_is_not_charged() -> None:
    """An eager client does so for each answer, on its stream and on the connection."""
    ends = Joined(max_streams=10**6)
    for number in range(1, 10_001, 2):
        ends.send(raw_request(number, BLOCK))
        stream = ends.calls.pop().stream
        stream.respond(b"\x88", bytes(100), b"")
        ends.send(window_update_frame(number, 100) + window_update_frame(0, 100))
    assert ends.connection.violation is None
    ends.send(raw_request(10_001, BLOCK))
    stream = ends.calls.pop().stream
    for _ in range(5000):
        stream.send_data(bytes(100))
        ends.send(window_update_frame(stream.id, 100) + window_update_frame(0, 100))
    assert ends.connection.violation is None


async def test_the_rest_of_a_large_body_that_is_not_wanted_is_no_fault() -> None:
    ends = Joined(accept=World(max_message_bytes=1000).service.accept)
    for number in range(1, 201, 2):
        ends.send(raw_request(number, BLOCK, flags=4))
        ends.send(frame(DATA, 0, number, pack_message(bytes(16_000))) * 60)
    assert ends.connection.violation is None


def test_a_stream_with_a_lower_number_ends_the_connection() -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK) + raw_request(7, BLOCK))
    assert ends.connection.violation is None
    ends.send(raw_request(3, BLOCK))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.PROTOCOL_ERROR


def test_trailers_that_meet_our_reset_are_ignored() -> None:
    ends = Joined()
    ends.send(raw_request(5, BLOCK, flags=4))
    ends.calls[0].stream.reset(ErrorCode.CANCEL)
    ends.send(frame(HEADERS, 5, 5, block("/s/Echo")))
    assert ends.connection.violation is None


def test_a_call_is_being_answered_only_while_it_waits_for_us() -> None:
    ends = Joined(settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    ends.send(raw_request(1, BLOCK, flags=4))
    assert not ends.connection.is_answering, "its request has not come whole"
    ends.send(frame(DATA, 1, 1, b"x"))
    assert ends.connection.is_answering
    assert not ends.connection.was_answered
    ends.calls[0].stream.respond(b"\x88", bytes(100), b"\x88")
    assert not ends.connection.is_answering, "the peer does not take it"
    assert ends.connection.was_answered


async def test_a_stream_is_being_answered_while_messages_come() -> None:
    ends = Joined(accept=World().service.accept)
    ends.send(raw_request(1, block("/s/Stream"), flags=4) + frame(DATA, 0, 1, pack_message(b"x")))
    await asyncio.sleep(0)
    assert ends.connection.is_answering
    ends.now_s = 11.0
    assert not ends.connection.is_answering
    ends.connection.abort(ErrorCode.CANCEL)
    await asyncio.sleep(0)


async def test_who_is_evicted_is_told() -> None:
    protocol, wire = open_protocol(Backlog())
    protocol.data_received(raw_request(1, BLOCK, flags=4))
    protocol.evict()
    assert wire.is_closed
    assert wire.written.endswith(goaway_frame(1, ErrorCode.NO_ERROR, "another connection needs the place of this one"))


async def test_the_more_wait_the_less_another_may_take_at_once() -> None:
    """So who floods over many connections takes no more of one turn than who floods over a few."""
    backlog = Backlog()
    taken = 0
    for _ in range(20):
        protocol, _ = open_protocol(backlog)
        protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, b"x") * 500)
        assert protocol.connection is not None
        taken += 16 * 2**20 - protocol.connection.receive_window + 1
    assert taken < 2 * TURN_FRAMES + 20 * 8
    protocol, _ = open_protocol(backlog)
    protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, bytes(9000)) * 8)
    assert protocol.connection is not None
    assert protocol.connection.receive_window == 16 * 2**20, "of much that comes at once only one frame is taken"
    for _ in range(2000):
        await asyncio.sleep(0)


async def test_what_had_to_wait_to_be_read_came_as_much_earlier() -> None:
    loop, ticks = asyncio.get_running_loop(), HandTurnedLoop()
    lag = LoopLag(ticks)
    protocol, _ = open_protocol(Backlog(), lag)
    assert protocol.connection is not None
    await asyncio.sleep(0.06)
    ticks.now_s += PERIOD_S + 0.041
    before_s = loop.time()
    protocol.data_received(UPDATE)
    after_s = loop.time()
    assert before_s - 1e-6 <= protocol.connection.arrived_s + 0.04 <= after_s + 1e-6
    # A socket that was read to its end just now can't hold what came before that.
    protocol.data_received(UPDATE)
    assert protocol.connection.arrived_s >= before_s


async def test_what_a_socket_could_not_give_at_once_came_before_it_was_last_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(UPDATE)
        protocol, _ = open_protocol(Backlog(), LoopLag(HandTurnedLoop()), ours)
        assert protocol.connection is not None
        protocol.data_received(frame(PING, 0, 0, b"x" * 8) * 10_000)
        read_s = asyncio.get_running_loop().time()
        await asyncio.sleep(0.02)
        protocol.data_received(ours.recv(1000))
    assert protocol.connection.arrived_s <= read_s


async def test_what_was_left_of_a_turn_is_known_by_its_size_until_it_is_taken() -> None:
    backlog = Backlog()
    protocol, _ = open_protocol(backlog)
    assert backlog.unread_bytes == 0
    left = frame(DATA, 0, 1, b"x") * 2 * TURN_FRAMES
    protocol.data_received(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, b"x") * (TURN_FRAMES - 1) + left)
    assert backlog.unread_bytes == 0, "nothing was ever answered on it, and a flood is no request"
    assert protocol.connection is not None
    protocol.connection.was_answered = True
    assert backlog.unread_bytes == len(left)
    while backlog.unread_bytes:
        before = backlog.unread_bytes
        await asyncio.sleep(0)
        assert backlog.unread_bytes < before
