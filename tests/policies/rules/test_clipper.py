from __future__ import annotations

from orchestrator.decision import Hold, Reason
from tests.policies.cases import Asker, line_candidate


def test_clipper_plus_sends_what_is_in_time_to_the_server_that_is_free_first() -> None:
    free = line_candidate("b", 50, per_item_s=0.002, wait_s=0.01, items=7)
    later = line_candidate("a", 50, per_item_s=0.001, wait_s=0.02, items=9)
    wide = line_candidate("c", 100, per_item_s=0.001, items=3)
    assert Asker("clipper-plus:50").choice([later, free, wide], items=9) == ("b", 50, 7)


def test_clipper_waits_where_no_server_of_its_width_has_room() -> None:
    busy = line_candidate("a", 50, per_item_s=0.001, has_room=False)
    free = line_candidate("b", 100, per_item_s=0.001)
    for name in ("clipper-plus:50", "clipper-aimd:50"):
        assert Asker(name).query([busy, free]) == Hold(Reason.BETTER_SERVER_BUSY)


def test_the_limit_grows_by_steps_and_falls_by_a_factor() -> None:
    asker, candidates = Asker("clipper-aimd,step=3,backoff=0.5"), [line_candidate(per_item_s=0.001, items=32)]
    sent = []
    for is_in_time in (True, True, True, False, False, False, True):
        items = asker.choice(candidates, items=32)[2]
        sent.append(items)
        asker.observe(items=items, is_in_time=is_in_time)
    assert sent == [1, 4, 7, 10, 5, 2, 1]
    assert asker.choice(candidates, items=32)[2] == 4


def test_a_batch_smaller_than_the_limit_says_nothing_of_larger_ones() -> None:
    asker, candidates = Asker("clipper-aimd"), [line_candidate(per_item_s=0.001, items=32)]
    asker.observe(items=1)
    asker.observe(items=1)
    assert asker.choice(candidates, items=32)[2] == 2


def test_each_server_and_width_has_its_own_limit() -> None:
    asker = Asker("clipper-aimd")
    asker.query([line_candidate("a", per_item_s=0.001), line_candidate("b", per_item_s=0.001)])
    asker.observe("b")
    assert asker.choice([line_candidate("a", per_item_s=0.001, items=9)], items=9)[2] == 1
    assert asker.choice([line_candidate("b", per_item_s=0.001, items=9)], items=9)[2] == 2
