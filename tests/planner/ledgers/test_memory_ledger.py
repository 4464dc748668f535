from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
from orchestrator.planner.ledgers.memory_ledger import LEDGER_ENTRIES, REMEMBERED_READINGS, MemoryLedger
from orchestrator.snapshot import ModelName

A, B = ModelName("a"), ModelName("b")
BASE = 10**9
sizes = st.integers(1, 10**9)


def outcome(
    kind: ActionKind,
    change_bytes: int,
    *,
    instances: int = 1,
    model: ModelName = A,
    error: str | None = None,
    at_s: float = 1.0,
    before: int = 1,
) -> Outcome:
    action = Action(kind, model, ActionReason.WANTED, instances=instances)
    return Outcome(action, 0.0, at_s, error, BASE, BASE + change_bytes, before)


def loaded(ledger: MemoryLedger, rise_bytes: int, model: ModelName = A) -> MemoryLedger:
    return ledger.record(outcome(ActionKind.LOAD, rise_bytes, model=model, before=0))


def scaled_up(ledger: MemoryLedger, rise_bytes: int, before: int, after: int) -> MemoryLedger:
    return ledger.record(outcome(ActionKind.SCALE_UP, rise_bytes, instances=after, before=before))


def unloaded(ledger: MemoryLedger, returned_bytes: int, before: int = 1, model: ModelName = A) -> MemoryLedger:
    return ledger.record(outcome(ActionKind.UNLOAD, -returned_bytes, instances=0, model=model, before=before))


def scaled_down(ledger: MemoryLedger, returned_bytes: int, before: int, after: int) -> MemoryLedger:
    return ledger.record(outcome(ActionKind.SCALE_DOWN, -returned_bytes, instances=after, before=before))


@settings(deadline=None, max_examples=50)
@given(st.lists(sizes, min_size=1, max_size=12), st.integers(1, 10**9))
def test_a_load_is_taken_for_the_largest_of_its_last_readings(rises: list[int], unmeasured_bytes: int) -> None:
    ledger = MemoryLedger()
    for rise in rises:
        ledger = loaded(ledger, rise)
    expected = max(rises[-REMEMBERED_READINGS:])
    assert ledger.load_bytes(A, 1, unmeasured_bytes=unmeasured_bytes) == expected
    assert ledger.instance_bytes(A, unmeasured_bytes=unmeasured_bytes) == expected  # never measured: what a load took
    assert ledger.residue_bytes == 0


@settings(deadline=None, max_examples=50)
@given(sizes, st.lists(sizes, min_size=1, max_size=12), st.integers(1, 8))
def test_further_instances_have_a_size_of_their_own(load: int, rises: list[int], instances: int) -> None:
    ledger = loaded(MemoryLedger(), load)
    for rise in rises:
        ledger = scaled_up(ledger, rise, 1, 2)
    each = max(rises[-REMEMBERED_READINGS:])
    assert ledger.instance_bytes(A, unmeasured_bytes=1) == each
    assert ledger.load_bytes(A, instances, unmeasured_bytes=1) == load + (instances - 1) * each


def test_a_reading_disturbed_by_something_else_is_forgotten() -> None:
    ledger = loaded(loaded(MemoryLedger(), 100), 10**8)
    for _ in range(REMEMBERED_READINGS - 1):
        ledger = loaded(ledger, 100)
    assert ledger.load_bytes(A, 1, unmeasured_bytes=1) == 10**8
    assert loaded(ledger, 100).load_bytes(A, 1, unmeasured_bytes=1) == 100


@pytest.mark.parametrize(("rise", "expected"), [(7, 7), (0, 0), (-7, 0)])
def test_a_load_never_takes_less_than_nothing(rise: int, expected: int) -> None:
    assert loaded(MemoryLedger(), rise).load_bytes(A, 1, unmeasured_bytes=50) == expected


def test_a_rise_by_several_instances_is_shared_among_them() -> None:
    ledger = scaled_up(MemoryLedger(), 300, 1, 4)
    assert ledger.instances_bytes == {A: (100,)}


@pytest.mark.parametrize(("sibling", "expected"), [(None, 100), (40, 100), (100, 100), (250, 250)])
def test_a_width_never_measured_is_taken_for_the_settings_figure_or_its_largest_sibling(
    sibling: int | None, expected: int
) -> None:
    ledger = MemoryLedger() if sibling is None else loaded(MemoryLedger(), sibling, B)
    assert ledger.load_bytes(A, 1, unmeasured_bytes=100) == expected
    assert ledger.instance_bytes(A, unmeasured_bytes=100) == expected
    assert ledger.load_bytes(A, 3, unmeasured_bytes=100) == 3 * expected


@settings(deadline=None, max_examples=50)
@given(st.lists(sizes, max_size=6), st.lists(sizes, max_size=6), sizes, st.integers(1, 8))
def test_more_instances_never_take_less(loads: list[int], rises: list[int], unmeasured: int, instances: int) -> None:
    ledger = MemoryLedger()
    for rise in loads:
        ledger = loaded(ledger, rise)
    for rise in rises:
        ledger = scaled_up(ledger, rise, 1, 2)
    less = ledger.load_bytes(A, instances, unmeasured_bytes=unmeasured)
    more = ledger.load_bytes(A, instances + 1, unmeasured_bytes=unmeasured)
    assert more - less == ledger.instance_bytes(A, unmeasured_bytes=unmeasured) >= 0


@pytest.mark.parametrize(
    "disturbed",
    [
        outcome(ActionKind.LOAD, 900, error="out of memory"),
        replace(outcome(ActionKind.LOAD, 900), memory_before_bytes=None),
        replace(outcome(ActionKind.LOAD, 900), memory_after_bytes=None),
        outcome(ActionKind.LOAD, 900, instances=2),
        outcome(ActionKind.RELOAD, 900, instances=2),
        outcome(ActionKind.SCALE_UP, 900, instances=1),
        outcome(ActionKind.UNLOAD, 0, instances=0, error="still in use"),
        replace(outcome(ActionKind.UNLOAD, 0, instances=0), memory_before_bytes=None),
    ],
    ids=lambda o: f"{o.action.kind}-{o.error}-{o.memory_before_bytes}-{o.memory_after_bytes}",
)
def test_what_cannot_be_kept_apart_shows_nothing(disturbed: Outcome) -> None:
    ledger = scaled_up(loaded(MemoryLedger(), 100), 60, 1, 2)
    assert ledger.record(disturbed) == ledger


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(1, 0, 100), (2, 0, 160), (4, 0, 280), (2, 1, 60), (4, 2, 120), (4, 1, 180)],
)
def test_going_down_should_give_back_what_was_learned_going_up(before: int, after: int, expected: int) -> None:
    ledger = scaled_up(loaded(MemoryLedger(), 100), 60, 1, 2)
    down = ActionKind.SCALE_DOWN if after else ActionKind.UNLOAD
    for returned in (expected, expected - 25):
        booked = ledger.record(outcome(down, -returned, instances=after, at_s=9.0, before=before))
        assert booked.residue_bytes == expected - returned
        (entry,) = booked.entries
        assert (entry.at_s, entry.model) == (9.0, A)
        assert (entry.expected_bytes, entry.returned_bytes) == (expected, returned)


def test_what_was_never_learned_is_not_booked() -> None:
    assert unloaded(MemoryLedger(), 0) == MemoryLedger()
    only_loads = loaded(MemoryLedger(), 100)
    assert unloaded(only_loads, 0, before=2) == only_loads
    assert scaled_down(only_loads, 0, 2, 1) == only_loads
    only_instances = scaled_up(MemoryLedger(), 60, 1, 2)
    assert unloaded(only_instances, 0, before=1) == only_instances
    assert scaled_down(only_instances, 50, 2, 1).residue_bytes == 10


def cycles(size: int, missing: Sequence[int]) -> MemoryLedger:
    """Load and unload again and again; each unload gives back so much too little (too much when negative)."""
    ledger = MemoryLedger()
    for lost in missing:
        ledger = unloaded(loaded(ledger, size), size - lost)
    return ledger


@settings(deadline=None, max_examples=30)
@given(sizes, st.integers(1, 10**6), st.integers(1, 80))
def test_a_leak_adds_up_beyond_the_entries_that_are_shown(size: int, leak: int, times: int) -> None:
    ledger = cycles(size, [leak] * times)
    assert ledger.residue_bytes == leak * times
    assert len(ledger.entries) == min(times, LEDGER_ENTRIES)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1000), max_size=30))
def test_what_is_given_back_later_repays_the_residue(errors: list[int]) -> None:
    noise = [sign * error for error in errors for sign in (1, -1)]
    assert cycles(5000, noise).residue_bytes == 0
    assert cycles(5000, [10**6, *noise]).residue_bytes == 10**6


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-1000, 1000), max_size=30))
def test_the_residue_is_the_sum_of_all_differences_and_never_below_zero(missing: list[int]) -> None:
    assert cycles(5000, missing).balance_bytes == sum(missing)
    assert cycles(5000, missing).residue_bytes == max(0, sum(missing))


def test_the_first_load_of_a_process_with_a_shared_runtime_is_no_size_of_its_model() -> None:
    ledger = MemoryLedger(server_id="1")
    for rise in (900, 100):
        ledger = ledger.record(outcome(ActionKind.LOAD, rise, before=0), has_shared_runtime=True)
    assert ledger.load_bytes(A, 1, unmeasured_bytes=1) == 100
    ledger = ledger.follow("2").record(outcome(ActionKind.LOAD, 900, before=0), has_shared_runtime=True)
    assert ledger.load_bytes(A, 1, unmeasured_bytes=1) == 100


def test_an_unload_is_held_against_the_last_reading_not_the_largest() -> None:
    ledger = loaded(loaded(MemoryLedger(), 900), 100)
    assert unloaded(ledger, 100).residue_bytes == 0


def test_a_new_process_owes_nothing_and_takes_as_much_as_the_old_one() -> None:
    ledger = scaled_up(cycles(100, [30]), 60, 1, 2).follow("first")  # seen for the first time, not restarted
    ledger = unloaded(loaded(ledger, 100), 80)
    assert ledger.residue_bytes == 50
    again = ledger.follow("second")
    assert (again.residue_bytes, again.entries, again.server_id) == (0, (), "second")
    assert again.loads_bytes == ledger.loads_bytes
    assert again.instances_bytes == ledger.instances_bytes


@pytest.mark.parametrize("server_id", ["first", None])
def test_the_same_or_an_unknown_process_changes_nothing(server_id: str | None) -> None:
    ledger = unloaded(loaded(MemoryLedger(server_id="first"), 100), 80)
    assert ledger.follow(server_id) == ledger


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(ActionKind)), st.integers(-(10**6), 10**6), st.integers(0, 4), st.sampled_from([A, B])
        ),
        max_size=30,
    )
)
def test_whatever_happens_sizes_and_residue_stay_sane_and_models_apart(
    happenings: list[tuple[ActionKind, int, int, ModelName]],
) -> None:
    ledger, alone = MemoryLedger(), MemoryLedger()
    for kind, change, before, model in happenings:
        after = {ActionKind.UNLOAD: 0, ActionKind.SCALE_DOWN: max(1, before - 1), ActionKind.SCALE_UP: before + 1}
        before = max(2, before) if kind is ActionKind.SCALE_DOWN else max(1, before)
        before = 0 if kind is ActionKind.LOAD else before
        happened = outcome(kind, change, instances=after.get(kind, 1), model=model, before=before)
        ledger = ledger.record(happened)
        if model == A:
            alone = alone.record(happened)
        assert ledger.residue_bytes >= 0
        assert len(ledger.entries) <= LEDGER_ENTRIES
    for readings in (*ledger.loads_bytes.values(), *ledger.instances_bytes.values()):
        assert 1 <= len(readings) <= REMEMBERED_READINGS
        assert min(readings) >= 0
    assert ledger.loads_bytes.get(A) == alone.loads_bytes.get(A)
    assert ledger.instances_bytes.get(A) == alone.instances_bytes.get(A)


def test_nothing_is_changed_in_place() -> None:
    before = loaded(MemoryLedger(server_id="1"), 100)
    copy = MemoryLedger(dict(before.loads_bytes), dict(before.instances_bytes), 0, (), "1", True)
    unloaded(before, 10)
    scaled_up(before, 10, 1, 2)
    loaded(before, 500)
    before.follow("2")
    assert before == copy


def test_instances_that_can_be_seen_need_no_change_to_be_known_and_growth_is_noticed() -> None:
    ledger = MemoryLedger().observe({A: 45})
    assert ledger.load_bytes(A, 2, unmeasured_bytes=128) == 90
    assert ledger.is_measured(A) and not ledger.is_measured(B)
    grown = loaded(ledger, 30).observe({A: 60})
    assert grown.instance_bytes(A, unmeasured_bytes=128) == 60
    assert loaded(ledger, 70).instance_bytes(A, unmeasured_bytes=128) == 70
    assert grown.observe({}) == grown
    assert grown.load_bytes(B, 1, unmeasured_bytes=1) == 60  # a width never seen is no smaller than its siblings


def test_what_a_reload_leaves_beyond_what_was_there_is_residue() -> None:
    ledger = loaded(MemoryLedger(), 100)
    leaky = ledger.record(outcome(ActionKind.RELOAD, 40))
    assert leaky.residue_bytes == 40
    assert leaky.load_bytes(A, 1, unmeasured_bytes=1) == 100
    assert leaky.record(outcome(ActionKind.RELOAD, -40)).residue_bytes == 0


def test_what_a_server_holds_beside_its_instances_is_the_residue_where_it_can_be_seen() -> None:
    ledger = MemoryLedger(server_id="1").observe({}, 10)
    assert ledger.residue_bytes == 0
    grown = cycles(100, [30]).observe({}, 10).observe({A: 5}, 17)
    assert grown.residue_bytes == 7  # whatever the sum says
    assert grown.observe({A: 6}).residue_bytes == 7
    assert grown.observe({}, 9).residue_bytes == 0
    assert ledger.observe({}, 17).follow("2").observe({}, 12).residue_bytes == 0
