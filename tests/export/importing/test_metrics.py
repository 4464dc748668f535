from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import VariantError
from export.importing.boxes import mean_average_precision
from export.importing.metrics import Metric, measure, metric_named
from tests.plugged import install


def quality(metric: Metric | str, answers: list[dict[str, np.ndarray]], labels: object) -> float:
    found = metric_named(metric, None) if isinstance(metric, str) else metric
    return measure(found, answers, np.asarray(labels), "100=x.onnx")


def test_top_k_counts_the_k_largest() -> None:
    answers = [{"scores": np.array(row)} for row in ([0.1, 0.9, 0.5], [0.9, 0.1, 0.5])]
    assert [quality(f"top-{k}", answers, [2, 2]) for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert quality("top-1", answers, [1, 0]) == 1.0


def test_of_equal_scores_the_first_counts_so_a_constant_answer_is_no_better_than_chance() -> None:
    constant = [{"scores": np.zeros(4)}] * 4
    assert quality("top-1", constant, [0, 1, 2, 3]) == 0.25


def test_of_several_outputs_one_is_to_be_named() -> None:
    answers = [{"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}]
    with pytest.raises(VariantError, match="say with --output which one"):
        quality("top-1", answers, [1])
    assert quality(metric_named("top-1", "b"), answers, [1]) == 1.0
    with pytest.raises(VariantError, match="--output c: there are only a, b"):
        quality(metric_named("top-1", "c"), answers, [1])


@pytest.mark.parametrize(
    "output",
    [
        np.array([[[0.9, 0.2], [0.1, 0.4]], [[0.1, 0.8], [0.9, 0.6]]]),  # scores of two classes
        np.array([[[0.1, 0.8], [0.9, 0.6]]]),  # a probability, with its one channel
        np.array([[0.1, 0.8], [0.9, 0.6]]),  # and without
        np.array([[0, 1], [1, 1]]),  # classes
    ],
)
def test_mean_iou_takes_scores_probabilities_and_classes(output: np.ndarray) -> None:
    # Of class 0 one pixel of the two that either has, of class 1 two of three.
    assert quality("mean-iou", [{"map": output}], [[[0, 1], [0, 1]]]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_mean_iou_leaves_out_pixels_that_are_not_judged_and_classes_that_do_not_occur() -> None:
    answer = {"map": np.array([[3, 3], [0, 0]])}
    assert quality("mean-iou", [answer], [[[3, 255], [0, 255]]]) == 1.0
    with pytest.raises(VariantError, match="gives nan"):
        quality("mean-iou", [answer], np.full((1, 2, 2), 255))


def test_a_label_that_is_no_number_is_no_class() -> None:
    with pytest.raises(VariantError, match="a label is nan; give the index of a class, 0 to 1"):
        quality("top-1", [{"scores": np.array([0.1, 0.9])}], [np.nan])


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=2, max_size=5), st.integers(0, 2**31))
def test_mean_iou_is_that_of_all_pixels_together(labels: list[list[int]], seed: int) -> None:
    found = np.random.default_rng(seed).integers(0, 5, (len(labels), 6))
    wanted = np.array(labels)
    each = [
        ((found == c) & (wanted == c)).sum() / ((found == c) | (wanted == c)).sum()
        for c in range(5)
        if ((found == c) | (wanted == c)).any()
    ]
    assert quality("mean-iou", [{"m": row} for row in found], wanted) == pytest.approx(np.mean(each))


def test_an_error_is_turned_round_and_a_constant_answer_is_worth_nothing() -> None:
    labels = np.array([1.0, 2.0, 3.0, 6.0])
    for answer, expected in ((labels, 1.0), (np.full(4, 3.0), 0.0), (labels + 0.75, 0.5)):
        answers = [{"value": np.array([one])} for one in answer]
        assert quality("mean-absolute-error", answers, labels) == pytest.approx(expected)
    with pytest.raises(VariantError, match="all labels are equal"):
        quality("mean-absolute-error", [{"value": np.zeros(1)}] * 2, [1.0, 1.0])


def box(left: float, score: float, kind: int = 0) -> list[float]:
    return [left, 0, left + 10, 10, score, kind]


LABELS = np.array([[[0, 0, 10, 10, 0], [50, 0, 60, 10, 0]], [[0, 0, 10, 10, 1], [0, 0, 0, 0, -1]]], float)


@pytest.mark.parametrize(
    ("detected", "expected"),
    [
        ([[box(0, 0.9), box(50, 0.8)], [box(0, 0.7, 1)]], 1.0),
        ([[box(0, 0.9)], [box(0, 0.7, 1)]], 0.75),  # half of class 0
        ([[box(3, 0.9), box(53, 0.8)], [box(0, 0.7, 1)]], 1.0),  # 7 of 13 overlap
        ([[box(4, 0.9), box(54, 0.8)], [box(0, 0.7, 1)]], 0.5),  # 6 of 14 do not
        ([[box(0, 0.9), box(1, 0.85), box(50, 0.8)], [box(0, 0.7, 1)]], (0.5 + 0.5 * 2 / 3 + 1) / 2),  # found twice
        ([[box(0, 0.9, 1), box(50, 0.8, 1)], [box(0, 0.7, 0)]], 0.0),  # of the other class
        ([[], []], 0.0),
    ],
)
def test_mean_average_precision_is_what_the_boxes_come_to_by_hand_in_one_tensor_or_three(
    detected: list[list[list[float]]], expected: float
) -> None:
    answers = [{"found": np.array(rows, np.float32).reshape(-1, 6)} for rows in detected]
    assert quality("map-50", answers, LABELS) == pytest.approx(expected)
    named = [
        {"boxes": a["found"][:, :4], "scores": a["found"][:, 4], "classes": a["found"][:, 5].astype(int)}
        for a in answers
    ]
    assert quality("map-50", named, LABELS) == pytest.approx(expected)


def test_without_a_labelled_box_there_is_no_precision() -> None:
    assert math.isnan(mean_average_precision([np.zeros((0, 6))], np.full((1, 1, 5), -1.0)))
    with pytest.raises(VariantError, match=r"give \[items, boxes, 5\]"):
        quality("map-50", [{"found": np.zeros((0, 6))}], [0])


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def halves(answers, labels):\n    return len(answers) / 2\n\n\ndef ends(answers, labels):\n    exit(3)\n"
    install(tmp_path, "halves_one", source, {"halves": "halves", "ends": "ends", "gone": "gone"}, "slimsched.metrics")
    install(tmp_path, "ending_one", "raise SystemExit('not today')\n", {"leaves": "x"}, "slimsched.metrics")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugged")
def test_a_metric_of_another_package_is_known_by_its_name() -> None:
    assert quality("halves", [{"a": np.zeros(1)}], [0]) == 0.5
    assert metric_named("halves", None).name == "halves"


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("half", r"--metric half: is none; give top-K .*; of other packages ends, gone, halves, leaves"),
        ("gone", r"--metric gone: metric 'gone' of halves_one can't be imported .AttributeError"),
        ("leaves", r"--metric leaves: metric 'leaves' of ending_one can't be imported .SystemExit: not"),
        ("ends", r"100=x.onnx: --metric ends failed .SystemExit: 3.; nothing was written"),
    ],
)
def test_a_metric_of_a_package_that_is_broken_is_named_with_the_reason(name: str, problem: str) -> None:
    with pytest.raises(VariantError, match=problem):
        quality(name, [{"a": np.zeros(1)}], [0])
