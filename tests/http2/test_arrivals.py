"""When bytes came that were read late."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.arrivals import Arrivals, read_left_bytes


def test_what_was_read_at_once_came_no_longer_ago_than_things_wait_for_the_loop() -> None:
    arrivals = Arrivals(10.0)
    assert arrivals.take(100, 0, 20.0, 0.03) == pytest.approx(19.97)
    assert arrivals.take(100, 0, 20.01, 0.03) == 20.0, "it had not come when the socket was emptied"


def test_what_a_socket_still_held_came_before_that_was_seen() -> None:
    arrivals = Arrivals(0.0)
    arrivals.take(100, 300, 1.0, 0.01)  # 400 have come within the first second
    assert arrivals.take(100, 400, 2.0, 0.01) == pytest.approx(0.25)  # the 100th of them, 200 more came in the next
    assert arrivals.take(100, 500, 3.0, 0.01) == pytest.approx(0.5)
    assert arrivals.take(100, 600, 4.0, 0.01) == pytest.approx(0.75)
    assert arrivals.take(100, 700, 5.0, 0.01) == pytest.approx(1.0)
    assert arrivals.take(800, 0, 6.0, 0.01) == pytest.approx(1.5)
    assert arrivals.take(10, 0, 7.0, 0.01) == pytest.approx(6.99)
    assert arrivals.left_bytes == 0


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=200),
    st.lists(st.tuples(st.floats(0.001, 2), st.integers(1, 30)), min_size=1, max_size=60),
)
def test_a_byte_came_between_the_looks_that_it_is_said_to_have_come_between(
    gaps_s: list[float], reads: list[tuple[float, int]]
) -> None:
    """A byte comes after each gap; each read takes some of what has come, after a while."""
    came_s = [sum(gaps_s[: index + 1]) for index in range(len(gaps_s))]
    arrivals, taken, now_s, looks_s = Arrivals(0.0), 0, 0.0, [0.0]
    for after_s, most in reads:
        now_s += after_s
        came = sum(at_s <= now_s for at_s in came_s)
        size = min(most, came - taken)
        if size == 0:
            continue
        found_s = arrivals.take(size, came - taken - size, now_s, float("inf"))
        true_s = came_s[taken]
        earlier_s = max(look_s for look_s in looks_s if look_s < true_s)
        later_s = min(look_s for look_s in [*looks_s, now_s] if look_s >= true_s)
        assert earlier_s - 1e-9 <= found_s <= later_s + 1e-9
        taken += size
        looks_s.append(now_s)


def test_a_socket_says_how_much_it_holds_and_a_closed_one_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(1000))
        ours.recv(300)
        assert read_left_bytes(ours.fileno()) == 700
        descriptor = ours.fileno()
    assert read_left_bytes(descriptor) == 0
    assert read_left_bytes(-1) == 0
