from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.listener import Waiting, choose_evicted

waiting = st.builds(Waiting, st.sampled_from(["a", "b", "c"]), st.floats(0, 100), st.booleans())


@given(st.lists(waiting, max_size=12))
def test_the_evicted_is_of_the_most_frequent_peer_never_answered_and_has_waited_longest(
    found: list[Waiting],
) -> None:
    index = choose_evicted(found)
    if not found:
        assert index is None
        return
    assert index is not None
    sizes = {peer: sum(w.peer == peer for w in found) for peer in "abc"}
    assert sizes[found[index].peer] == max(sizes.values())
    same_peer = [w for w in found if w.peer == found[index].peer]
    assert found[index].was_answered == all(w.was_answered for w in same_peer)
    assert all(w.since_s >= found[index].since_s for w in same_peer if w.was_answered == found[index].was_answered)
