from __future__ import annotations

import asyncio
import os
from pathlib import Path

from benchmarks.fidelity.testbed import FidelitySettings, _bound_to, _copy_repository, _split_cores

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def test_the_copy_has_small_batches_and_no_batcher_of_tritons_own_and_is_else_the_same(tmp_path: Path) -> None:
    settings = FidelitySettings(REPOSITORY, ("lert",), max_batch_size=16)
    copy = _copy_repository(settings, tmp_path / "copy")
    configs = sorted(copy.glob("*/config.pbtxt"))
    assert [path.parent.name for path in configs] == [f"fashion_w{width:03d}" for width in (25, 50, 75, 100)]
    for path in configs:
        original = (REPOSITORY / path.parent.name / path.name).read_text().splitlines()
        changed = path.read_text().splitlines()
        assert "max_batch_size: 16" in changed
        gone = [line for line in original if line not in changed]
        assert sorted(set(gone)) == ["  batch_size: 64", "dynamic_batching {", "max_batch_size: 64"]
        assert len(original) == len(changed) + 2  # the section's two lines


def test_the_router_keeps_to_its_core_and_gives_the_others_back() -> None:
    before = os.sched_getaffinity(0)
    ours, theirs = _split_cores()
    assert set(ours) | set(theirs) == before
    assert len(before) == 1 or not set(ours) & set(theirs)

    async def bound() -> set[int]:
        async with _bound_to(ours):
            return os.sched_getaffinity(0)

    assert asyncio.run(bound()) == set(ours)
    assert os.sched_getaffinity(0) == before
