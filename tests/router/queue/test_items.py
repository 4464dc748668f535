"""What a caller gives is one item or a batch of them, of all inputs alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.router.queue.request import as_batch
from orchestrator.snapshot import TensorSpec
from tests.fakes.servers import served_model

MODEL = replace(served_model(50), inputs=(TensorSpec("a", "FP32", (3,)), TensorSpec("b", "FP32", (3,))))


def array(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_all_inputs_are_items_or_all_are_batches() -> None:
    assert as_batch({"a": array(3), "b": array(3)}, MODEL)[1]
    assert not as_batch({"a": array(2, 3), "b": array(2, 3)}, MODEL)[1]


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        (array(3), array(2, 3), "input 'a' is one item, and others are batches; give all or none as batches"),
        (array(2, 3), array(3), "input 'b' is one item, and others are batches; give all or none as batches"),
        (array(3), array(4), r"input 'b' takes \[3\] or \[n, 3\], got \[4\]"),
        (array(2, 3), array(1, 3), "input 'b' has 1 items, 'a' has 2; give as many of each"),
    ],
)
def test_a_refusal_names_the_input_that_is_wrong_and_why(a: np.ndarray, b: np.ndarray, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        as_batch({"a": a, "b": b}, MODEL)
