from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planner.host import Batching
from orchestrator.planner.state import ConfigKey, Quarantine
from orchestrator.snapshot import ModelName

A, B = ModelName("a"), ModelName("b")
KEY: ConfigKey = (A, 1, Batching())
keys = st.tuples(
    st.sampled_from([A, B]), st.integers(1, 3), st.sampled_from([Batching(), Batching((4,), 500), Batching((), 500)])
)


def failed(times: int, *, first_s: float = 5.0, max_s: float = 300.0, now_s: float = 100.0) -> Quarantine:
    quarantine = Quarantine()
    for count in range(times):
        quarantine = quarantine.fail(KEY, f"reason {count + 1}", now_s=now_s, first_s=first_s, max_s=max_s)
    return quarantine


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (3000, 300)]
)
def test_the_time_doubles_with_each_failure_and_is_bounded(failures: int, delay_s: float) -> None:
    entry = failed(failures).entry(KEY, now_s=100.0)
    assert entry is not None
    assert entry.failures == failures
    assert entry.until_s == 100.0 + delay_s
    assert entry.reason == f"reason {failures}"


def test_it_is_over_at_its_end_and_not_before() -> None:
    quarantine = failed(1)
    assert quarantine.entry(KEY, now_s=104.999) is not None
    assert quarantine.entry(KEY, now_s=105.0) is None


def test_a_failure_after_the_end_still_counts_as_one_more_in_a_row() -> None:
    quarantine = failed(1).fail(KEY, "again", now_s=400.0, first_s=5.0, max_s=300.0)
    entry = quarantine.entry(KEY, now_s=409.9)
    assert entry is not None
    assert (entry.failures, entry.until_s, entry.reason) == (2, 410.0, "again")


def test_what_was_over_for_as_long_as_the_longest_quarantine_is_forgotten() -> None:
    quarantine = failed(6).fail(KEY, "again", now_s=560.0, first_s=5.0, max_s=300.0)  # the sixth ended at 260
    assert quarantine.entries[KEY].failures == 1
    other: ConfigKey = (B, 1, Batching())
    assert set(failed(1).fail(other, "x", now_s=404.0, first_s=5.0, max_s=300.0).entries) == {KEY, other}
    assert set(failed(1).fail(other, "x", now_s=405.0, first_s=5.0, max_s=300.0).entries) == {other}


@pytest.mark.parametrize(
    "other", [(B, 1, Batching()), (A, 2, Batching()), (A, 1, Batching((), 1)), (A, 1, Batching((4,)))]
)
def test_only_the_exact_config_is_left_alone(other: ConfigKey) -> None:
    assert failed(3).entry(other, now_s=100.0) is None


def test_after_a_pardon_the_next_failure_is_the_first() -> None:
    quarantine = failed(6).pardon(A)
    assert quarantine == Quarantine()
    entry = quarantine.fail(KEY, "new", now_s=0.0, first_s=5.0, max_s=300.0).entry(KEY, now_s=0.0)
    assert entry is not None
    assert (entry.failures, entry.until_s) == (1, 5.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(keys, max_size=20))
def test_a_pardon_frees_all_configs_of_one_model_and_none_of_another(failures: list[ConfigKey]) -> None:
    quarantine = Quarantine()
    for key in failures:
        quarantine = quarantine.fail(key, "x", now_s=0.0, first_s=5.0, max_s=300.0)
    pardoned = quarantine.pardon(A)
    for key in failures:
        assert quarantine.entry(key, now_s=1.0) is not None
        expected = None if key[0] == A else quarantine.entry(key, now_s=1.0)
        assert pardoned.entry(key, now_s=1.0) == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40), st.floats(0.1, 50), st.floats(1, 1000))
def test_a_quarantine_is_never_longer_than_the_most_and_grows_with_each_failure(
    pauses_s: list[float], first_s: float, more_ratio: float
) -> None:
    max_s, now_s, last_s, ended_s = first_s * more_ratio, 0.0, 0.0, 0.0
    quarantine = Quarantine()
    for pause_s in pauses_s:
        now_s += pause_s
        quarantine = quarantine.fail(KEY, "x", now_s=now_s, first_s=first_s, max_s=max_s)
        delay_s = quarantine.entries[KEY].until_s - now_s
        assert first_s - 1e-6 <= delay_s <= max_s + 1e-6
        is_in_a_row = last_s > 0 and now_s - ended_s < max_s
        assert delay_s == pytest.approx(min(max_s, 2 * last_s) if is_in_a_row else first_s)
        last_s, ended_s = delay_s, now_s + delay_s


def test_nothing_is_changed_in_place() -> None:
    quarantine = failed(1)
    quarantine.fail(KEY, "again", now_s=0.0, first_s=5.0, max_s=300.0)
    quarantine.pardon(A)
    assert quarantine == failed(1)
