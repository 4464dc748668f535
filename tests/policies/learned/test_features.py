"""The encoder: one golden vector, its ranges, and what it must not depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from orchestrator.decision import Candidate
from orchestrator.policies.fleet.row_values import write_candidate, write_query
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import (
    BATCHES,
    FIRST_SEND,
    HOLD_ACTION,
    HOLD_PARTS,
    REJECT_ACTION,
    action_count,
    do_action,
)
from orchestrator.policies.learned.encoding import contrast
from orchestrator.policies.protocol import Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import new_column, new_table
from orchestrator.snapshot import Preference, QueueState, Width
from tests.policies.fleets import fleets
from tests.policies.learned.views import seen
from tests.policies.test_every_policy import Fleet, candidates_of, situations
from tests.policies.test_policies import candidate

GOLDEN = Path(__file__).parent / "data" / "features-v4.json"
QUEUE = QueueState(6, 2, 10.1, 10.4, (Width(25), Width(100)), min_accuracy=0.5, other_queues=1, other_items=2)
SITUATION = Situation(QUEUE, 10.0, turn=3, uniforms=(0.1, 0.2), slack_margin=1.25)
CANDIDATES = [
    candidate("a", 25, items=6, accuracy=0.7, service_s=0.016, completion_s=0.02, head_completion_s=0.012, wait_s=0.004,
              drain_s=0.05, server_items=8, per_item_s=0.002, fixed_s=0.004, per_item_j=0.1, fixed_j=0.6,
              utilisation_ratio=0.4, memory_ratio=0.5, power_ratio=0.6),
    candidate("a", 100, items=4, accuracy=0.9, service_s=0.036, completion_s=0.04, head_completion_s=0.024,
              wait_s=0.004, drain_s=0.2, server_items=8, per_item_s=0.008, fixed_s=0.004, per_item_j=0.4, fixed_j=0.6,
              memory_ratio=0.5),
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
    assert [first[name] for name in ("utilisation", "memory", "power", "telemetry_known")] == [0.4, 0.5, 0.6, 1]
    assert lines[1][feat.TELEMETRY_KNOWN] == pytest.approx(1 / 3)
    assert (outer["classes"], outer["others"]) == (0.5, 0.25)


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
    assert mask[action_count(len(considered)) :].sum() == 0


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


def of_a_fleet(count: int, *, base: str = "lert:widest") -> tuple[list[Candidate], list[int], int]:
    """Return the candidates of so many servers, the rows that are considered, and the base policy's."""
    candidates = many(count)
    slow = max(range(0, 4 * count, 4), key=lambda row: candidates[row].head_completion_s)
    candidates[slow + 3] = replace(candidates[slow + 3], head_completion_s=0.001)  # what "lert" takes
    situation = Situation(QueueState(1, 1, 0.5, 0.5, (Width(25),)), 0.0, 0, (0.0, 0.0), 1.0)
    lines, _, mask, considered = seen(candidates, situation, base=base)
    line = int(np.argmax(lines[:, feat.BASE_CHOICE]))
    assert mask[FIRST_SEND + BATCHES * line] == 1
    assert considered == sorted(considered)
    return candidates, considered, considered[line]


def test_all_servers_of_a_fleet_of_64_are_considered_with_the_quickest_and_the_most_accurate_width_in_time() -> None:
    candidates, considered, base_row = of_a_fleet(64)
    assert len(considered) == feat.ROWS
    assert candidates[base_row].head_completion_s == 0.001
    assert [candidates[row].width for row in considered] == [25, 100] * 64  # all are in time
    late = [replace(c, head_completion_s=0.6) if c.width > 50 else c for c in candidates]
    situation = Situation(QueueState(1, 1, 0.5, 0.5, (Width(25),)), 0.0, 0, (0.0, 0.0), 1.0)
    _, _, _, considered = seen(late, situation, base="lert:narrowest")
    assert [candidates[row].width for row in considered] == [25, 50] * 64


def test_of_still_more_servers_the_quickest_are_considered_and_the_base_choice_among_them() -> None:
    candidates, considered, base_row = of_a_fleet(200)
    servers = {candidates[row].server for row in considered}
    quickest = [c.server for c in sorted(candidates[::4], key=lambda c: c.head_completion_s)]
    assert len(considered) == len(servers) == feat.ROWS
    assert candidates[base_row].width == 100
    assert candidates[base_row].server not in quickest[: feat.ROWS]
    assert servers == {candidates[base_row].server, *quickest[: feat.ROWS - 1]}


def allowed(candidates: Sequence[Candidate], situation: Situation, *, base: str = "lert:slack") -> set[int]:
    """Return the actions that are allowed."""
    return set(np.flatnonzero(seen(candidates, situation, base=base)[2]).tolist())


def test_half_of_a_batch_may_be_sent_where_another_server_has_room_for_the_rest() -> None:
    alone = [candidate("a", 100, items=6, max_batch_size=32)]
    situation = Situation(QueueState(6, 1, 1.0, 1.0, (Width(100),)), 0.0, 0, (0.0, 0.0), 1.0)
    assert allowed(alone, situation) == {FIRST_SEND}
    both = [*alone, candidate("b", 100, items=6, max_batch_size=32, completion_s=0.2)]
    assert allowed(both, situation) == {FIRST_SEND, FIRST_SEND + 1}
    assert allowed([both[0], replace(both[1], has_room=False)], situation) == {FIRST_SEND}
    single = [replace(c, items=1) for c in both]
    assert allowed(single, replace(situation, queue=replace(situation.queue, items=1))) == {FIRST_SEND}


def test_the_head_may_be_given_up_only_while_nobody_leaves_it_and_those_behind_it_in_time() -> None:
    busy = candidate("a", 100, has_room=False, completion_s=0.5, head_completion_s=0.5, drain_s=0.5)
    free = candidate("b", 100, completion_s=0.9, head_completion_s=0.9, drain_s=0.5)
    situation = Situation(QueueState(6, 1, 1.0, 1.0, (Width(100),)), 0.0, 0, (0.0, 0.0), 1.0)
    assert REJECT_ACTION not in allowed([busy, free], situation)
    late = [busy, replace(free, completion_s=1.1, head_completion_s=1.1)]
    assert REJECT_ACTION not in allowed(late, situation)  # it may still be held for a
    hopeless = [replace(c, drain_s=1.1) for c in late]
    assert REJECT_ACTION not in allowed(hopeless, situation)  # the answer is wanted late too
    refuses = replace(situation, queue=replace(situation.queue, refuses_late=True))
    assert REJECT_ACTION in allowed(hopeless, refuses)
    assert REJECT_ACTION not in allowed(late, refuses)
    assert REJECT_ACTION not in allowed([], refuses)


def test_a_hold_has_three_lengths() -> None:
    quick = candidate("a", 100, has_room=False, completion_s=0.2, head_completion_s=0.2, drain_s=0.2)
    slow = candidate("b", 100, completion_s=0.6, head_completion_s=0.6, drain_s=0.2)
    situation = Situation(QueueState(1, 1, 1.0, 1.0, (Width(100),)), 0.0, 0, (0.0, 0.0), 1.0)
    holds = [HOLD_ACTION + part for part in range(len(HOLD_PARTS))]
    assert {*holds, FIRST_SEND + BATCHES} == allowed([quick, slow], situation, base="nexus")
    rows, query, base = new_table(col.ROW_FIELDS, 2), new_column(col.QUERY_FIELDS), new_column(3)
    for row, each in enumerate((quick, slow)):
        write_candidate(rows, row, each, row, 0)
    write_query(query, situation)
    chosen = np.arange(2.0)
    until_s = [do_action(action, rows, chosen, 2, query, base)[2] for action in holds]
    assert until_s == pytest.approx([0.4, 0.2, 0.1])  # of the 0.8 s that are left
