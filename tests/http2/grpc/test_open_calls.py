"""Calls that do not come whole: how many there may be, and whose have to go."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.frames import DATA, ErrorCode, frame, rst_stream_frame
from orchestrator.http2.grpc.open_calls import OpenCalls, choose_evicted_calls
from orchestrator.http2.grpc.wire import pack_message
from tests.http2.peer import Joined, raw_request
from tests.http2.test_misbehaviour import block
from tests.http2.world import World

HOLE = b"grpc-status\x018"  # RESOURCE_EXHAUSTED


@dataclass(eq=False)
class Call:
    was_answered: bool = False
    evicted: list[Call] = field(default_factory=list)

    def evict(self) -> None:
        self.evicted.append(self)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_those_with_the_most_give_way_until_nobody_has_more_than_they(owners: list[int], data: st.DataObject) -> None:
    calls = {Call(): owner for owner in owners}
    count = data.draw(st.integers(1, len(calls)))
    chosen = choose_evicted_calls(calls, count)
    assert count <= len(set(chosen)) == len(chosen) < count + len(set(owners))
    lost = Counter(calls[call] for call in chosen)
    left = Counter(owners) - lost
    for owner in lost:
        assert left[owner] == max(left.values(), default=0)


def test_calls_that_were_never_answered_go_first_and_then_the_oldest() -> None:
    calls = [Call(was_answered=number < 2) for number in range(6)]
    assert choose_evicted_calls(dict.fromkeys(calls, "one"), 3) == calls[2:5]
    assert choose_evicted_calls(dict.fromkeys(calls, "one"), 5) == [*calls[2:], calls[0]]


def test_room_is_made_for_many_at_a_time() -> None:
    open_calls, evicted = OpenCalls(80), list[Call]()
    for number in range(1000):
        open_calls.add(Call(evicted=evicted), "greedy" if number else "modest")
        assert len(open_calls.owners) <= 80
    assert len(open_calls.owners) + len(evicted) == 1000
    assert "modest" in open_calls.owners.values()


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Stream"])
async def test_whoever_opens_many_calls_loses_them_and_others_none(path: str) -> None:
    world = World(most_open_calls=40)
    greedy, modest = (Joined(accept=world.service.accept) for _ in range(2))
    head = block(path, ("x-owner", "greedy"))
    modest.send(raw_request(1, block(path, ("x-owner", "modest")), flags=4))
    for number in range(1, 201, 2):
        greedy.send(raw_request(number, head, flags=4))
        await asyncio.sleep(0)
        assert len(world.service.open_calls.owners) <= 40
    for _ in range(3):
        await asyncio.sleep(0)
    assert greedy.connection.take_out().count(HOLE) == 100 - (len(world.service.open_calls.owners) - 1)
    modest.send(frame(DATA, 1, 1, pack_message(b"whole")))
    for _ in range(3):
        await asyncio.sleep(0)
    assert world.taken == [b"whole"]
    assert HOLE not in modest.connection.take_out()
    greedy.connection.abort(ErrorCode.CANCEL)
    await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Stream", "/s/Quick", "/s/Fail"])
@pytest.mark.parametrize(
    "end",
    [
        frame(DATA, 1, 1, pack_message(b"now")),
        frame(DATA, 1, 1, b"no message"),
        rst_stream_frame(1, ErrorCode.CANCEL),
        frame(2, 0, 0, b"lost!"),
    ],
    ids=["whole", "refused", "reset", "lost"],
)
async def test_a_call_that_is_whole_or_has_ended_is_open_no_more(path: str, end: bytes) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    ends.send(raw_request(1, block(path), flags=4))
    assert len(world.service.open_calls.owners) == 1
    ends.send(end)
    for _ in range(4):
        await asyncio.sleep(0)
    assert not world.service.open_calls.owners


async def test_a_call_whose_time_is_up_is_open_no_more() -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    ends.send(raw_request(1, block("/s/Echo", ("grpc-timeout", "1n")), flags=4))
    while world.service.open_calls.owners:
        await asyncio.sleep(0)
    assert b"grpc-status\x014" in ends.connection.take_out()
