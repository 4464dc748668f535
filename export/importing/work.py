"""The floating-point operations of one item, counted while ONNX Runtime runs it.

Shapes follow from the run and not from shape inference, which knows too little of networks that others have exported:
it leaves the products of a text recogniser, and all of a voice detector with branches, without shapes. The run has the
shapes of whatever it went through, inner graphs included, and of each branch the one that was taken.

A multiply-add counts as two. Counted are convolutions, matrix products and recurrent layers: the operators in
``_COUNTED``, quantised ones as those that they stand for. Biases, activations, pooling, normalisation and operators
that are not ONNX's own are left out. For the networks that are exported here it is what ``slim.flops`` has said since
the first: what PyTorch's counter counts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from export.errors import VariantError, one_line
from export.importing.variant import Variant, open_quietly

Shapes = Sequence[Sequence[int]]


def _convolution(weight: int) -> Callable[[Shapes, Shapes], int]:
    """Each value of the output is a product over the weight's input channels and window."""
    return lambda inputs, outputs: 2 * prod(outputs[0]) * prod(inputs[weight][1:])


def _recurrent(inputs: Shapes, outputs: Shapes) -> int:
    """Each step of each sequence is multiplied with the weights of input and state; x is [steps, batch, size]."""
    return 2 * prod(inputs[0][:2]) * (prod(inputs[1]) + prod(inputs[2]))


def _product(inputs: Shapes, outputs: Shapes) -> int:
    return 2 * prod(outputs[0]) * inputs[0][-1]


_COUNTED: Mapping[str, Callable[[Shapes, Shapes], int]] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": lambda inputs, outputs: 2 * prod(inputs[0]) * prod(inputs[1][1:]),
    "Gemm": lambda inputs, outputs: 2 * prod(inputs[0]) * outputs[0][-1],
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def count_flops(variant: Variant, feed: Mapping[str, NDArray[Any]]) -> int:
    """Return the floating-point operations of running a variant on ``feed``; raises VariantError when it can't run."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        # As the file has them: fused operators have other names, and weights that are packed before no shapes.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        session = open_quietly(variant.label, variant.model, options)
        try:
            session.run(None, feed)
        except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
            raise VariantError(f"{variant.label}: an item can't be run ({one_line(exc)})") from exc
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(map(_flops_of, events))


def _flops_of(event: Mapping[str, Any]) -> int:
    found = event.get("args", {})
    count = _COUNTED.get(found.get("op_name", ""))
    if count is None or not event["name"].endswith("_kernel_time"):
        return 0
    inputs, outputs = (
        [shape for tensor in found[key] for shape in tensor.values()]
        for key in ("input_type_shape", "output_type_shape")
    )
    return count(inputs, outputs)
