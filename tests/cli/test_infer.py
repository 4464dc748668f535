"""What ``slimsched infer`` says of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.client.infer import describe_answer
from orchestrator.decision import ServerName
from orchestrator.router import Answer
from orchestrator.snapshot import Width

NAN, INF = float("nan"), float("inf")


def answered(**outputs: Any) -> Mapping[str, Any]:
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    answer = Answer(arrays, ("cat", "dog"), ServerName("a"), Width(50), 1, 0.0, 0.1, True, 0.9, "1", "lert")
    return describe_answer(answer)


def test_of_one_score_a_class_the_best_is_said_by_its_label_if_it_has_one() -> None:
    assert answered(scores=[0.0, np.log(3)]) == {"label": "dog", "confidence": 0.75}
    assert answered(scores=[-INF, 0.0]) == {"label": "dog", "confidence": 1.0}
    assert answered(scores=[0.0, 0.0, 9.0])["label"] == "2"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scores", [[NAN, 1.0], [INF, 1.0], [-INF, -INF]])
def test_scores_that_compare_with_nothing_are_no_label(scores: list[float]) -> None:
    said = answered(scores=scores)
    assert said == {"outputs": {"scores": [score if np.isfinite(score) else None for score in scores]}}


def test_other_outputs_are_said_as_json_has_them() -> None:
    said = answered(box=[[0.5, NAN], [-INF, 1.0]], count=3, one=NAN, text=np.array([b"a\xff"], object))
    expected = {"box": [[0.5, None], [None, 1.0]], "count": 3, "one": None, "text": ["a\\xff"]}
    assert json.loads(json.dumps(said, allow_nan=False)) == {"outputs": expected}
