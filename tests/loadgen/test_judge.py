"""How good single answers are."""

from __future__ import annotations

import numpy as np
import pytest

from export.importing.metrics import measure, metric_named
from orchestrator.errors import ConfigError
from orchestrator.loadgen.judge import make_judge

SCORES = [{"scores": np.array(row)} for row in ([0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5])]
CLASSES = np.array([1, 1, 0])
NUMBERS = [{"x": np.array([value])} for value in (1.0, 2.0, 5.0)]


def nothing_is_right(answers: object, labels: object) -> float:
    return -1.0


def not_sure(answers: object, labels: np.ndarray) -> float:
    return {0: float("nan"), 1: 1.0, 2: float("inf")}[int(labels[0])]


def test_top_1_is_right_or_wrong_by_the_first_output_or_by_the_one_that_is_named() -> None:
    two = [{"other": np.array([9.0]), **answer} for answer in SCORES]
    judge = make_judge("top-1", CLASSES, None)
    assert [judge(answer, item) for item, answer in enumerate(SCORES)] == [1, 0, 0]
    judge = make_judge("top-1", CLASSES, "scores")
    assert [judge(answer, item) for item, answer in enumerate(two)] == [1, 0, 0]
    with pytest.raises(ConfigError, match="--output class: there are only scores"):
        make_judge("top-1", CLASSES, "class")(SCORES[0], 0)


@pytest.mark.parametrize(
    ("metric", "answers", "labels"),
    [
        ("top-2", SCORES, CLASSES),
        ("mean-absolute-error", NUMBERS, np.array([[1.0], [2.5], [3.0]])),
    ],
)
def test_the_mean_over_single_answers_is_what_import_measures(
    metric: str, answers: list[dict[str, np.ndarray]], labels: np.ndarray
) -> None:
    judge = make_judge(metric, labels, None)
    mean = np.mean([judge(answer, item) for item, answer in enumerate(answers)])
    assert mean == pytest.approx(measure(metric_named(metric, None), answers, labels, "x"))


def test_an_item_of_which_nothing_is_judged_has_no_quality() -> None:
    judge = make_judge("mean-iou", np.full((1, 2, 2), 255), None)
    assert np.isnan(judge({"mask": np.ones((2, 2))}, 0))


def test_a_function_of_the_users_is_a_metric() -> None:
    judge = make_judge("tests.loadgen.test_judge:nothing_is_right", CLASSES, None)
    assert judge(SCORES[0], 0) == -1


def test_a_quality_that_is_no_number_is_refused_and_not_left_out() -> None:
    metric = "tests.loadgen.test_judge:not_sure"
    judge = make_judge(metric, np.array([1, 0, 2]), None)
    assert judge(SCORES[0], 0) == 1
    for item, said in ((1, "nan"), (2, "inf")):
        message = f"^--metric {metric} gives {said} for the answer to item {item}, which is no quality; let it return"
        with pytest.raises(ConfigError, match=message):
            judge(SCORES[item], item)
    broken = {"x": np.array([np.nan])}
    with pytest.raises(ConfigError, match="--metric mean-absolute-error gives nan for the answer to item 0"):
        make_judge("mean-absolute-error", np.array([[1.0], [2.0]]), None)(broken, 0)


def test_what_is_no_metric_and_what_it_cannot_judge_are_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="--metric best: is none; give top-K"):
        make_judge("best", CLASSES, None)
    with pytest.raises(ConfigError, match="--metric top-2 can't judge the answer to item 0: a label is 7"):
        make_judge("top-2", np.array([7]), None)(SCORES[0], 0)
    for label in (7, 3, -1, 1.5, [1, 0, 0]):
        with pytest.raises(ConfigError, match=r"a label is .*; give the index of a class, 0 to 2"):
            make_judge("top-1", np.array([label]), None)(SCORES[0], 0)
