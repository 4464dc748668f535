from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.listener import Waiting, choose_evicted

PEERS = ["a", "b", "c"]
waiting = st.builds(Waiting, st.sampled_from(PEERS), st.floats(0, 100), st.booleans(), st.booleans())
connections = st.lists(st.tuples(waiting, st.booleans()), max_size=12)


def choose(found: list[tuple[Waiting, bool]], newcomer: str) -> int | None:
    """Choose among connections, each with whether it is being answered."""
    return choose_evicted([w.peer for w, _ in found], lambda i: None if found[i][1] else found[i][0], newcomer)


@given(st.lists(waiting, max_size=12))
def test_the_evicted_is_of_the_most_frequent_peer_never_answered_and_has_waited_longest(
    found: list[Waiting],
) -> None:
    index = choose([(one, False) for one in found], "new")
    if not found:
        assert index is None
        return
    assert index is not None
    sizes = Counter(w.peer for w in found)
    assert sizes[found[index].peer] == max(sizes.values())
    same_peer = [w for w in found if w.peer == found[index].peer]
    assert found[index].was_answered == all(w.was_answered for w in same_peer)
    alike = [w for w in same_peer if w.was_answered == found[index].was_answered]
    assert found[index].is_idle == all(w.is_idle for w in alike)
    assert all(w.since_s >= found[index].since_s for w in alike if w.is_idle == found[index].is_idle)


@given(connections, st.sampled_from([*PEERS, "new"]))
def test_an_address_gains_nothing_from_one_that_has_less(found: list[tuple[Waiting, bool]], newcomer: str) -> None:
    index = choose(found, newcomer)
    if index is not None:
        sizes = Counter(w.peer for w, _ in found)
        assert sizes[found[index][0].peer] >= sizes[newcomer]
        if found[index][1]:
            assert sizes[found[index][0].peer] > sizes[newcomer] + 1


@given(connections)
def test_a_new_address_finds_a_place_while_another_has_several(found: list[tuple[Waiting, bool]]) -> None:
    sizes = Counter(w.peer for w, _ in found)
    if max(sizes.values(), default=0) > 1:
        assert choose(found, "new") is not None


def test_a_good_idle_connection_is_not_the_first_to_go() -> None:
    good = (Waiting("good", 1.0, was_answered=True), False)
    for is_answered in (False, True):
        bad = [(Waiting("bad", 90.0 + n, was_answered=True, is_idle=False), is_answered) for n in range(9)]
        assert choose([good, *bad], "new") == 1
    same = [(Waiting("proxy", 90.0, was_answered=True, is_idle=False), False)] * 3
    assert choose([(Waiting("proxy", 1.0, was_answered=True), False), *same], "proxy") == 1


def test_who_has_most_and_is_answered_everywhere_gets_no_more() -> None:
    found = [(Waiting("bad", 5.0), True)] * 9 + [(Waiting("good", 1.0), False)]
    assert choose(found, "bad") is None
