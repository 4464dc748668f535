"""Promises are judged by what the caller of a batch's head measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.real.promises import DEADLINE_S, WINDOW, Promises, judge, read_decisions, windows_away, worst_points
from orchestrator.loadgen.records import OK, Records
from orchestrator.profile.margin import CONFIDENCE


def decision(number: int, *, margin: float | None = 2.0, left_s: float = 0.09) -> dict[str, Any]:
    """Return a decision that expects an answer 10 ms after ``DEADLINE_S - left_s`` have passed."""
    return {
        "at": float(number),
        "choice": {"server": "a", "width": 25},
        "queue": {"head_slack_s": left_s},
        "outcome": {"items": 4},
        "candidates": [
            {"server": "a", "width": 25, "wait_s": 0.002, "item_s": 0.001, "group_s": 0.004, "margin": margin}
        ],
    }


def records(latencies_s: list[float], decisions: list[str]) -> Records:
    count = len(latencies_s)
    sent_s = np.arange(count, dtype=float)
    names = np.array(decisions)
    return Records(
        sent_s,
        sent_s,
        sent_s + np.array(latencies_s),
        np.full(count, OK),
        np.full(count, 25),
        np.full(count, "a"),
        names,
        np.full(count, ""),
        np.full(count, True),
        np.full(count, np.nan),
        {},
    )


def test_the_head_of_each_batch_is_held_against_what_its_decision_promised() -> None:
    # Promised within 10 ms that had passed and twice the 10 ms that were expected.
    assert pytest.approx(0.09) == DEADLINE_S - 0.01
    (found,) = judge("two", 0.6, records([0.029, 0.5, 0.031], ["x", "x", "y"]), {"x": decision(0), "y": decision(1)})
    assert (found.server, found.width, found.groups, found.share) == ("a", 25, 2, 0.5)
    assert found.windows == []
    assert worst_points([found]) == [], "of so few nothing follows"


def test_what_was_not_sampled_or_promised_by_no_margin_does_not_count() -> None:
    assert list(judge("two", 0.6, records([0.01], ["z"]), {"x": decision(0)})) == []
    assert list(judge("two", 0.6, records([0.01], ["x"]), {"x": decision(0, margin=None)})) == []


def test_a_head_that_was_given_up_is_a_broken_promise_and_capacity_is_no_promise() -> None:
    def timed(number: int, latency_s: float, deadline_s: float) -> dict[str, Any]:
        head = {"latency_s": latency_s, "deadline_s": deadline_s, "in_time": latency_s <= deadline_s}
        return {**decision(number), "outcome": {"items": 4, "requests": [head]}}

    decisions = {"x": timed(1, 0.02, DEADLINE_S), "y": timed(2, 0.3, DEADLINE_S), "before": timed(0, 0.3, DEADLINE_S)}
    decisions["capacity"] = timed(3, 0.3, 10.0)
    (found,) = judge("two", 0.6, records([0.029, 0.03], ["x", "y"]), decisions)
    assert (found.groups, found.share) == (2, 0.5)


def test_windows_follow_the_order_of_decisions() -> None:
    count = 2 * WINDOW
    latencies_s = [0.01] * WINDOW + [0.01 if number % 10 else 0.2 for number in range(WINDOW)]
    names = [str(number) for number in range(count)]
    (found,) = judge("two", 1.5, records(latencies_s, names), {name: decision(int(name)) for name in names})
    assert found.windows == [0.9, 1.0]
    assert found.share == pytest.approx(0.95)
    assert worst_points([found]) == pytest.approx([100 * abs(0.95 - CONFIDENCE)])
    assert windows_away([found]) == pytest.approx([100 * abs(0.9 - CONFIDENCE), 100 * (1 - CONFIDENCE)])


def test_what_was_refused_undecided_is_no_decision(tmp_path: Path) -> None:
    lines = [{"id": "x", **decision(0)}, {"shed": "late", "at": 0.1, "items": 1}]
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_decisions(tmp_path)) == ["x"]


def test_a_window_at_the_bar_is_within_it() -> None:
    at_bar = [CONFIDENCE - 0.02, 190 / WINDOW, 198 / WINDOW]
    found = Promises("two", 0.6, "a", 25, 3 * WINDOW, sum(at_bar) / 3, at_bar)
    assert all(points <= 2.0 for points in windows_away([found]))
    beyond = Promises("two", 0.6, "a", 25, WINDOW, 189 / WINDOW, [189 / WINDOW])
    assert windows_away([beyond]) == [2.5]
