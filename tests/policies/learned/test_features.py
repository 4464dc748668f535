"""The encoder: one golden vector, its ranges, and what it must not depend on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from orchestrator.decision import Candidate
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import HOLD_ACTION
from orchestrator.policies.learned.encoding import contrast
from orchestrator.policies.protocol import Situation
from orchestrator.snapshot import Preference, QueueState, Width
from tests.policies.fleets import fleets
from tests.policies.learned.views import seen
from tests.policies.test_every_policy import Fleet, candidates_of, situations
from tests.policies.test_policies import candidate

GOLDEN = Path(__file__).parent / "data" / "features-v3.json"
QUEUE = QueueState(6, 2, 10.1, 10.4, (Width(25), Width(100)), min_accuracy=0.5)
SITUATION = Situation(QUEUE, 10.0, turn=3, uniforms=(0.1, 0.2), slack_margin=1.25)
CANDIDATES = [
    candidate("a", 25, items=6, accuracy=0.7, service_s=0.016, completion_s=0.02, head_completion_s=0.012, wait_s=0.004,
              drain_s=0.05, server_items=8, per_item_s=0.002, fixed_s=0.004, per_item_j=0.1, fixed_j=0.6),
    candidate("a", 100, items=4, accuracy=0.9, service_s=0.036, completion_s=0.04, head_completion_s=0.024,
              wait_s=0.004, drain_s=0.2, server_items=8, per_item_s=0.008, fixed_s=0.004, per_item_j=0.4, fixed_j=0.6),
    candidate("b", 25, items=3, accuracy=0.7, service_s=0.03, completion_s=0.09, head_completion_s=0.084, wait_s=0.06,
              drain_s=0.05, server_items=16, has_room=False, per_item_s=0.006, fixed_s=0.012, instances=2,
              overdue_ratio=4.0),
]  # fmt: skip


def test_the_observation_is_the_golden_one() -> None:
    lines, context, mask, _ = seen(CANDIDATES, SITUATION)
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == feat.VERSION
    for line, expected in zip(lines, golden["lines"], strict=True):
        assert dict(zip(feat.FEATURE_NAMES, line, strict=True)) == pytest.approx(expected)
    assert dict(zip(feat.CONTEXT_NAMES, context, strict=True)) == pytest.approx(golden["context"])
    assert [at for at, allowed in enumerate(mask) if allowed] == golden["allowed"]


def test_features_are_what_their_table_says() -> None:
    lines, context, _, _ = seen(CANDIDATES, SITUATION)
    first = dict(zip(feat.FEATURE_NAMES, lines[0], strict=True))
    assert first["head_in_time"] == pytest.approx((0.1 - 1.25 * 0.02) / (0.1 + 1.25 * 0.02))
    assert first["tail_in_time"] == pytest.approx((0.4 - 1.25 * 0.05) / (0.4 + 1.25 * 0.05))
    assert first["wait_share"] == pytest.approx(0.2)
    assert first["launch_share"] == pytest.approx(0.25)
    assert first["fill"] == pytest.approx(6 / 32)
    # 0.2 J an item here, and 0.1 + 0.6/32 in a full batch
    assert first["joules_unfilled"] == pytest.approx(contrast(0.2, 0.1 + 0.6 / 32))
    assert lines[1][feat.FEATURE_NAMES.index("joules_ratio")] == pytest.approx(contrast(0.55, 0.2))
    assert lines[2][feat.FEATURE_NAMES.index("joules_known")] == 0
    assert lines[2][feat.FEATURE_NAMES.index("overdue")] == pytest.approx(0.75)
    outer = dict(zip(feat.CONTEXT_NAMES, context, strict=True))
    assert outer["queue"] == pytest.approx(6 / (6 + 96))
    assert (outer["prefer_accuracy"], outer["prefer_latency"], outer["prefer_energy"]) == (0.5, 0.3, 0.2)
    assert outer["joules_known"] == pytest.approx(2 / 3)


def test_a_request_with_a_preference_is_seen_with_its_own() -> None:
    asked = replace(SITUATION, queue=replace(QUEUE, preference=Preference(0.1, 0.2, 0.7)))
    _, context, _, _ = seen(CANDIDATES, asked)
    assert list(context[feat.CONTEXT_PREFER_ACCURACY : feat.CONTEXT_PREFER_ENERGY + 1]) == [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(3, 1, 0.5), (1, 3, -0.5), (0, 0, 0), (5, 0, 1), (math.inf, 1, 1), (1, math.inf, -1), (math.inf, math.inf, 0)],
)
def test_a_contrast_is_bounded_whatever_it_compares(a: float, b: float, expected: float) -> None:
    assert contrast(float(a), float(b)) == expected


@settings(deadline=None)
@given(fleets(), situations)
def test_every_feature_keeps_to_its_range(fleet: Fleet, situation: Situation) -> None:
    lines, context, mask, considered = seen(candidates_of(fleet, situation.queue), situation)
    for values, signed in ((lines, feat.SIGNED_FEATURES), (context[None], feat.SIGNED_CONTEXT)):
        least = np.zeros(values.shape[1])
        least[list(signed)] = -1
        assert np.isfinite(values).all()
        assert (values >= least - 1e-9).all()
        assert (values <= 1 + 1e-9).all()
    assert mask.sum() >= 1
    assert mask[len(considered) : HOLD_ACTION].sum() == 0


@settings(deadline=None)
@given(fleets(), situations)
def test_features_have_no_unit(fleet: Fleet, situation: Situation) -> None:
    """A world in which everything takes seven times as long looks the same."""
    candidates = candidates_of(fleet, situation.queue)
    times = ("service_s", "completion_s", "head_completion_s", "drain_s", "wait_s", "per_item_s", "fixed_s")
    slow = [replace(c, **{name: 7 * getattr(c, name) for name in times}) for c in candidates]
    queue = situation.queue
    slow_queue = replace(queue, head_deadline_s=7 * queue.head_deadline_s, tail_deadline_s=7 * queue.tail_deadline_s)
    lines, context, _, considered = seen(candidates, situation)
    slow_lines, slow_context, _, slow_considered = seen(slow, replace(situation, queue=slow_queue))
    assert considered == slow_considered
    # Whether something is in time, and so what the base policy does, may turn on the last bit.
    smooth = [i for i, name in enumerate(feat.FEATURE_NAMES) if name not in ("timely", "base_choice")]
    np.testing.assert_allclose(slow_lines[:, smooth], lines[:, smooth], atol=1e-9)
    smooth = [i for i, name in enumerate(feat.CONTEXT_NAMES) if name not in ("timely", "base_holds")]
    np.testing.assert_allclose(slow_context[smooth], context[smooth], atol=1e-9)


def many(servers: int) -> list[Candidate]:
    return [
        candidate(f"s{s:03d}", w, head_completion_s=0.01 + 0.001 * ((s * 7) % servers), completion_s=0.2, drain_s=0.3)
        for s in range(servers)
        for w in (25, 50, 75, 100)
    ]


def test_of_many_servers_the_quickest_are_considered_whole_and_the_base_choice_among_them() -> None:
    candidates = many(64)
    candidates[4 * 9 + 3] = replace(candidates[4 * 9 + 3], completion_s=0.001)  # what "lert" takes; its head is slow
    situation = Situation(QueueState(1, 1, 0.5, 0.5, (Width(25),)), 0.0, 0, (0.0, 0.0), 1.0)
    lines, _, mask, considered = seen(candidates, situation, base="lert:widest")
    assert len(considered) == feat.ROWS == len(lines)
    servers = {candidates[row].server for row in considered}
    quickest = sorted({(c.head_completion_s, c.server) for c in candidates})[:8]
    base_row = considered[int(np.argmax(lines[:, feat.FEATURE_NAMES.index("base_choice")]))]
    assert candidates[base_row].width == 100
    assert mask[considered.index(base_row)] == 1
    assert len(servers) == 8
    assert {name for _, name in quickest[:7]} <= servers
    assert considered == sorted(considered)
