"""Whose slot it is, and what its requests came to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from orchestrator.router.rollout.split import Ledger, Split

SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5])


def split(share: float = 0.25, *, slot_s: float = 1.0, since_s: float = 0.0) -> Split:
    return Split("seed", share, slot_s, since_s)


@given(share=SHARES, since_s=st.floats(0, 1e9), seed=st.text(max_size=8))
def test_a_candidate_has_one_slot_of_each_block_and_none_before_the_first(
    share: float, since_s: float, seed: str
) -> None:
    made = Split(seed, share, 1.0, since_s)
    for block in range(made.first_block - 2, made.first_block + 5):
        slots = range(block * made.slots, (block + 1) * made.slots)
        assert sum(map(made.is_candidates, slots)) == (block >= made.first_block)
    assert made.first_block * made.slots * made.slot_s > since_s


def test_slots_are_spread_over_blocks_and_the_same_for_all_who_roll_out_one_file() -> None:
    one, later = split(), split(since_s=1000.0)
    places = {one.own_slot(block) % one.slots for block in range(50)}
    assert places == {0, 1, 2, 3}
    assert all(one.own_slot(block) == later.own_slot(block) for block in range(300))


@given(
    requests=st.lists(st.tuples(st.floats(0, 40), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=60),
    now_s=st.floats(0, 60),
)
def test_a_ledger_compares_the_mean_of_one_slot_with_that_of_the_others(
    requests: list[tuple[float, float | None]], now_s: float
) -> None:
    """Held against a sum over all requests at once; who is not answered is worth nothing."""
    ledger = Ledger(split())
    for at_s, worth in sorted(requests, key=lambda each: each[0]):
        ledger.note_arrival(at_s)
        if worth is not None:
            ledger.note_worth(at_s, worth)
    expected = []
    for block in range(1, 20):
        if now_s < (block + 1) * 4 + 1:
            break
        inside = [(at_s, worth or 0.0) for at_s, worth in requests if at_s // 4 == block and at_s % 1 >= 0.25]
        own = [worth for at_s, worth in inside if int(at_s) == ledger.split.own_slot(block)]
        others = [worth for at_s, worth in inside if int(at_s) != ledger.split.own_slot(block)]
        if own and others:
            expected.append((approx(sum(own) / len(own) - sum(others) / len(others)), len(own)))
    assert ledger.take_ended(now_s) == expected
    assert ledger.take_ended(now_s) == []


def test_an_answer_that_comes_after_its_block_was_taken_changes_nothing() -> None:
    ledger = Ledger(split())
    for slot in range(4, 8):
        ledger.note_arrival(slot + 0.5)
    assert len(ledger.take_ended(9.0)) == 1
    ledger.note_worth(4.5, 1.0)
    assert ledger.take_ended(100.0) == []
