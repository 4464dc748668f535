from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.controller.scenarios.changes import Change, ChangeKind, draw_changes

STEADY, LOOSE = ("a", "b"), ("c", "d")
STEPS = {ChangeKind.SCALE_UP: 1, ChangeKind.SCALE_DOWN: -1, ChangeKind.LOAD: 1, ChangeKind.UNLOAD: -1}


def counts(each: int) -> dict[ChangeKind, int]:
    return dict.fromkeys(ChangeKind, each)


def draw(each: int, seed: int) -> tuple[Change, ...]:
    return draw_changes(STEADY, LOOSE, counts(each), seed=seed)


@given(each=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_every_change_can_be_made_and_the_last_leads_home(each: int, seed: int) -> None:
    changes = draw(each, seed)
    instances = {"a": 1, "b": 1, "c": 0, "d": 0}
    batching = dict.fromkeys(instances, None)
    for change in changes:
        assert change.instances_before == instances[change.model]
        instances[change.model] += STEPS.get(change.kind, 0)
        assert change.instances == instances[change.model]
        assert change.model in (LOOSE if change.kind in (ChangeKind.LOAD, ChangeKind.UNLOAD) else STEADY)
        assert all(1 <= instances[model] <= 3 for model in STEADY)
        assert all(0 <= instances[model] <= 1 for model in LOOSE)
        assert change.is_home == (instances == {"a": 1, "b": 1, "c": 0, "d": 0})
        if change.kind is ChangeKind.BATCHING:
            assert change.batching != batching[change.model], "else Triton would do nothing"
            batching[change.model] = change.batching
    assert {kind: sum(c.kind is kind for c in changes) for kind in ChangeKind} == counts(each)
    assert not changes or changes[-1].is_home or changes[-1].kind in (ChangeKind.BATCHING, ChangeKind.NONCE)
    assert instances == {"a": 1, "b": 1, "c": 0, "d": 0}


def test_the_order_is_the_seed_s() -> None:
    assert draw(10, 1) == draw(10, 1)
    assert draw(10, 1) != draw(10, 2)


def test_opposites_must_be_equal() -> None:
    with pytest.raises(ValueError, match="scale up and scale down must be drawn equally often"):
        draw_changes(STEADY, LOOSE, {ChangeKind.SCALE_UP: 1}, seed=0)
