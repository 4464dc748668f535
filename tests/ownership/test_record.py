"""The record of a server's holder: never two who may believe that they hold it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.ownership.record import LEASE_S, HolderRecord, Holding
from orchestrator.ownership.rendezvous import GatewayName

A, B, C = (GatewayName(name) for name in "abc")
OPEN_S = 100.0
"""When a keeper that began at 0 grants claims."""


def claimed(holding: Holding, gateway: GatewayName, now_s: float) -> Holding:
    state = holding.claim(gateway, now_s=now_s)
    assert state is not None
    return state


def test_a_server_that_nobody_holds_is_had_by_who_claims_it_first() -> None:
    state = claimed(Holding(0.0), A, OPEN_S)
    assert state.record == HolderRecord(A, 1, OPEN_S + LEASE_S)
    assert state.claim(B, now_s=OPEN_S) is None
    assert state.wait_s(now_s=OPEN_S + 0.5) == LEASE_S - 0.5


def test_a_holder_keeps_it_by_renewing_and_loses_it_by_not() -> None:
    state = claimed(Holding(0.0), A, OPEN_S).renew(A, 1, now_s=OPEN_S + 1)
    assert state is not None
    assert state.held(now_s=OPEN_S + 1 + LEASE_S / 2) is not None
    expired_s = OPEN_S + 1 + LEASE_S
    assert state.held(now_s=expired_s) is None
    assert state.renew(A, 1, now_s=expired_s) is None
    assert claimed(state, B, expired_s).record == HolderRecord(B, 2, expired_s + LEASE_S)


def test_what_comes_with_an_old_term_changes_nothing() -> None:
    state = claimed(claimed(Holding(0.0), A, OPEN_S), A, OPEN_S + 1)
    assert state.renew(A, 1, now_s=OPEN_S + 1) is None
    assert state.release(A, 1, now_s=OPEN_S + 1) is None
    assert state.release(A, 1, B, now_s=OPEN_S + 1) is None


def test_a_released_server_is_to_be_had_at_once_by_anybody_or_by_the_successor_alone() -> None:
    state = claimed(Holding(0.0), A, OPEN_S)
    free, given_on = state.release(A, 1, now_s=OPEN_S + 1), state.release(A, 1, B, now_s=OPEN_S + 1)
    assert free is not None
    assert given_on is not None
    assert claimed(free, C, OPEN_S + 1).held(now_s=OPEN_S + 1) is not None
    assert given_on.claim(C, now_s=OPEN_S + 1) is None
    assert claimed(given_on, B, OPEN_S + 1).record is not None


def test_a_new_keeper_lets_nobody_in_before_the_last_holders_time_is_over_and_believes_who_renews() -> None:
    new = Holding(OPEN_S, first_term=50)
    assert new.claim(B, now_s=OPEN_S + 0.5) is None
    assert new.wait_s(now_s=OPEN_S + 0.5) == LEASE_S - 0.5
    believed = new.renew(A, 7, now_s=OPEN_S + 0.5)
    assert believed is not None
    assert believed.record == HolderRecord(A, 7, OPEN_S + 0.5 + LEASE_S)
    assert believed.renew(B, 6, now_s=OPEN_S + 0.5) is None
    assert claimed(new, B, OPEN_S + LEASE_S).record == HolderRecord(B, 50, OPEN_S + 2 * LEASE_S)
    assert new.renew(A, 7, now_s=OPEN_S + LEASE_S) is None


@pytest.mark.parametrize("first_term", [1, 6, 8, 50])
def test_terms_go_up_from_what_was_believed_whatever_the_clock_says_to_a_new_keeper(first_term: int) -> None:
    believed = Holding(OPEN_S, first_term=first_term).renew(A, 7, now_s=OPEN_S + 0.5)
    assert believed is not None
    given_on = believed.release(A, 7, B, now_s=OPEN_S + 1)
    assert given_on is not None
    assert given_on.record == HolderRecord(B, max(8, first_term), OPEN_S + 1 + LEASE_S)
    assert given_on.renew(A, 7, now_s=OPEN_S + 1) is None


@pytest.mark.parametrize("first_term", [1, 6, 7, 8])
@pytest.mark.parametrize("newcomer", [A, B])
def test_late_messages_of_an_earlier_time_change_nothing_though_terms_begin_lower(
    first_term: int, newcomer: GatewayName
) -> None:
    state = claimed(Holding(OPEN_S, first_term=first_term), newcomer, OPEN_S + LEASE_S)
    late = 7 if newcomer != A or first_term != 7 else 6  # the same holder in the same term is no other time
    assert state.renew(A, late, now_s=OPEN_S + LEASE_S) is None
    assert state.release(A, late, C, now_s=OPEN_S + LEASE_S) is None


@dataclass
class Gateway:
    """One that believes what it is told, on the time from before it asked."""

    name: GatewayName
    term: int | None = None
    until_s: float = 0.0
    believed: list[tuple[float, float]] = field(default_factory=list)

    def believe(self, state: Holding, sent_s: float, told_s: float) -> None:
        assert state.record is not None
        self.term, self.until_s = state.record.term, sent_s + LEASE_S
        if told_s < self.until_s:
            self.believed.append((told_s, self.until_s))


asks = st.tuples(
    st.sampled_from(["claim", "claim", "renew", "release", "give", "restart"]),
    st.integers(0, 2),
    st.sampled_from([0.1, 0.5, 1.0, 1.5]),  # until the next one
    st.sampled_from([0.0, 0.01, 1.0, 2.5]),  # on the way there
    st.sampled_from([0.0, 0.01, 1.0]),  # on the way back
)


@example([("claim", 0, 0.1, 0.0, 0.0), ("restart", 0, 0.1, 0.0, 0.0), ("claim", 1, 0.5, 0.0, 0.0)])
@example([("claim", 0, 0.1, 0.0, 0.0), ("claim", 1, 1.0, 1.0, 0.0), ("renew", 0, 0.5, 0.0, 0.0)])
@settings(max_examples=300)
@given(st.lists(asks, min_size=1, max_size=40))
def test_no_two_gateways_ever_believe_that_they_hold_a_server_however_late_messages_come(
    script: list[tuple[str, int, float, float, float]],
) -> None:
    """Each gateway asks one thing at a time; it gives a server up as it sends that, and gives up waiting with time."""
    gateways = [Gateway(name) for name in (A, B, C)]
    holding, restarts, clock_s = Holding(0.0), 1, 10.0
    busy_until_s = [0.0, 0.0, 0.0]
    arrivals: list[tuple[float, str, Gateway, float, float]] = []
    for kind, who, pause_s, there_s, back_s in script:
        clock_s += pause_s
        if kind != "restart" and clock_s < busy_until_s[who]:
            continue
        busy_until_s[who] = clock_s + there_s + back_s
        arrivals.append((clock_s + (0 if kind == "restart" else there_s), kind, gateways[who], clock_s, back_s))
    # In the order in which the keeper hears them.
    for at_s, kind, gateway, sent_s, back_s in sorted(arrivals, key=lambda arrival: arrival[0]):
        if kind == "restart":
            restarts += 1
            # Of a clock that went on, of one that was set back, and of one that was set back to the very beginning.
            holding = Holding(at_s, first_term=(1000 * restarts, 500, 1)[gateways.index(gateway)])
            continue
        is_holder = gateway.term is not None and sent_s < gateway.until_s
        if kind == "claim" and not is_holder:
            state = holding.claim(gateway.name, now_s=at_s)
        elif kind == "renew" and is_holder:
            assert gateway.term is not None
            state = holding.renew(gateway.name, gateway.term, now_s=at_s)
        elif kind in ("release", "give") and is_holder:
            assert gateway.term is not None
            gateway.until_s = 0.0
            gateway.believed = [(since, min(until, sent_s)) for since, until in gateway.believed]
            successor = B if kind == "give" else None
            holding = holding.release(gateway.name, gateway.term, successor, now_s=at_s) or holding
            continue
        else:
            continue
        if state is not None:
            holding = state
            gateway.believe(state, sent_s, at_s + back_s)
    spans = sorted((since, until, g.name) for g in gateways for since, until in g.believed if until > since)
    for (_, until_s, one), (since_s, _, other) in ((a, b) for n, a in enumerate(spans) for b in spans[n + 1 :]):
        assert one == other or until_s <= since_s
