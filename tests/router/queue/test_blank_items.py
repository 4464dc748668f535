"""Blank items and golden probes, of models whose inputs may vary in shape too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.snapshot import TensorSpec
from orchestrator.triton.trial_items import blank_batch, golden_batch
from tests.fakes.servers import served_model

FREE = replace(served_model(50), inputs=(TensorSpec("x", "FP32", (3, -1)), TensorSpec("text", "BYTES", (-1,))))


def test_a_shape_that_may_vary_has_blank_items_where_a_usual_item_is_known() -> None:
    assert blank_batch(FREE, 2) is None
    assert golden_batch(FREE, 2) is None
    known = replace(FREE, usual_item=((3, 5), (4,)))
    x, text = blank_batch(known, 2) or ()
    assert (x.shape, x.dtype, text.shape, text[0, 0]) == ((2, 3, 5), np.float32, (2, 4), b"")
    assert not x.any()
    probe, _ = golden_batch(known, 2) or ()
    assert probe.shape == (2, 3, 5)
    assert probe.any()
    assert blank_batch(replace(FREE, usual_item=((3, -1), (4,))), 1) is None, "half of it is known"


def test_a_fixed_shape_needs_no_usual_item() -> None:
    (image,) = blank_batch(replace(FREE, inputs=(TensorSpec("x", "UINT8", (3, 4)),)), 1) or ()
    assert (image.shape, image.dtype) == ((1, 3, 4), np.uint8)
