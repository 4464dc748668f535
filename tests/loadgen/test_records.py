"""What figures are made of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.loadgen.records import (
    OK,
    UNANSWERED,
    Records,
    join_records,
    load_records,
    save_records,
    summarize,
)

#        right in time, wrong in time, late, refused early, refused late, never answered
LINES = (
    (0.0, 0.0, 0.05, OK, 25, "a", True),
    (1.0, 1.0, 1.05, OK, 25, "b", False),
    (2.0, 2.1, 2.15, OK, 100, "a", True),  # it left late, which counts
    (3.0, 3.0, 3.01, "RESOURCE_EXHAUSTED", 0, "", False),
    (4.0, 4.0, 4.20, "DEADLINE_EXCEEDED", 0, "", False),
    (5.0, 5.0, math.nan, UNANSWERED, 0, "", False),
)


def make_records(
    lines: tuple[tuple[float, float, float, str, int, str, bool], ...] = LINES, *, energy_j: float = math.nan
) -> Records:
    due_s, sent_s, ended_s, status, width, server, is_right = zip(*lines, strict=True)
    return Records(
        np.array(due_s),
        np.array(sent_s),
        np.array(ended_s),
        np.array(status),
        np.array(width),
        np.array(server),
        np.array([f"{name}-1" if name else "" for name in server]),
        np.array([f"of {name}" if name else "" for name in server]),
        np.array(is_right),
        np.where(np.array(status) == OK, energy_j, math.nan),
        {"RESOURCE_EXHAUSTED": "the queue is full"},
    )


def test_every_request_is_in_time_refused_or_late_by_when_it_was_due() -> None:
    summary = summarize(make_records(), 0.1)
    assert (summary.requests, summary.right_in_time, summary.in_time) == (6, 1 / 6, 2 / 6)
    assert (summary.refused, summary.late) == (1 / 6, 3 / 6)
    assert summary.accuracy == 2 / 3
    assert summary.widths == {25: 2 / 3, 100: 1 / 3}
    assert summary.servers == {"a": 2 / 3, "b": 1 / 3}
    assert summary.policies == {"of a": 2 / 3, "of b": 1 / 3}
    assert summary.statuses == {OK: 3, "RESOURCE_EXHAUSTED": 1, "DEADLINE_EXCEEDED": 1, UNANSWERED: 1}
    assert summary.p50_s == pytest.approx(0.05)
    assert summary.sender_late_s == pytest.approx(0.095, abs=0.01)


def test_joules_are_of_answers_and_unknown_where_one_of_them_is() -> None:
    assert summarize(make_records(energy_j=0.5), 0.1).energy_j == 0.5
    assert summarize(make_records(), 0.1).energy_j is None


def test_the_spread_of_latency_is_of_answers() -> None:
    assert summarize(make_records(), 0.1).std_s == pytest.approx(np.std([0.05, 0.05, 0.15]))


def test_without_answers_there_is_neither_accuracy_nor_latency() -> None:
    summary = summarize(make_records(LINES[3:]), 0.1)
    assert (summary.accuracy, summary.mean_s, summary.p99_s, summary.widths) == (None, None, None, {})


def test_nothing_after_the_warm_up_is_said_in_words() -> None:
    with pytest.raises(ConfigError, match="no request was due after the warm-up"):
        summarize(make_records().after(9.0), 0.1)


def test_records_of_several_senders_are_put_in_order_and_survive_a_file(tmp_path: Path) -> None:
    joined = join_records([make_records(LINES[1::2]), make_records(LINES[0::2])])
    assert joined.due_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    save_records(joined, tmp_path / "records.npz")
    again = load_records(tmp_path / "records.npz")
    assert again.status.tolist() == [line[3] for line in LINES]
    assert again.details == joined.details
    assert summarize(again, 0.1) == summarize(make_records(), 0.1)


def test_a_file_that_was_cut_is_said_to_hold_no_records(tmp_path: Path) -> None:
    path = tmp_path / "records.npz"
    save_records(make_records(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="holds no records"):
        load_records(path)
