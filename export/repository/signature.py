"""What a model takes and gives: names, types and dims, read from its graph or from its configuration.

A graph says all dims of a tensor; a configuration says them without the batch dimension where the model batches. Both
are brought into the configuration's form, so that two models, or a model and its configuration, are compared as plain
values. A dim that is free is -1. Triton has no tensors without dims: a scalar is served as one dim of 1, and its
backend gives the graph a scalar. Where the batch is a tensor's only dim, an item is such a scalar, and the
configuration's ``reshape`` has Triton take the dim of 1 away, or add it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError

FREE = -1
DATA_TYPES: Mapping[str, tuple[str, DTypeLike]] = {
    "tensor(bool)": ("TYPE_BOOL", np.bool_),
    "tensor(uint8)": ("TYPE_UINT8", np.uint8),
    "tensor(uint16)": ("TYPE_UINT16", np.uint16),
    "tensor(uint32)": ("TYPE_UINT32", np.uint32),
    "tensor(uint64)": ("TYPE_UINT64", np.uint64),
    "tensor(int8)": ("TYPE_INT8", np.int8),
    "tensor(int16)": ("TYPE_INT16", np.int16),
    "tensor(int32)": ("TYPE_INT32", np.int32),
    "tensor(int64)": ("TYPE_INT64", np.int64),
    "tensor(float16)": ("TYPE_FP16", np.float16),
    "tensor(float)": ("TYPE_FP32", np.float32),
    "tensor(double)": ("TYPE_FP64", np.float64),
    "tensor(string)": ("TYPE_STRING", np.object_),
}
"""Triton's name and numpy's type of what ONNX Runtime calls a type; the backend takes no others."""
_NUMPY_TYPES = dict(DATA_TYPES.values())


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output.

    Attributes:
        data_type: Triton's name of the type, such as ``TYPE_FP32``.
        dims: The dims, -1 where free; whether the batch is one of them is known to who holds the tensor.
        is_reshaped: As it is declared: that an item, which is served with one dim of 1, has none in the graph's batch.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    is_reshaped: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's type of its elements."""
        return np.dtype(_NUMPY_TYPES[self.data_type])

    def __str__(self) -> str:
        return f"{self.name} {self.data_type.removeprefix('TYPE_')} {list(self.dims)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and the outputs of a model, in its own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def is_batchable(self) -> bool:
        """Return whether every tensor of a graph has a free first dim, which may be the batch."""
        return all(tensor.dims[:1] == (FREE,) for tensor in (*self.inputs, *self.outputs))

    def served(self, *, batching: bool) -> Signature:
        """Return a graph's signature as a configuration declares it, without the batch dim where it batches."""

        def declare(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(
                Tensor(t.name, t.data_type, (t.dims[1:] if batching else t.dims) or (1,), batching and len(t.dims) == 1)
                for t in tensors
            )

        return Signature(declare(self.inputs), declare(self.outputs))

    def sorted(self) -> Signature:
        """Return the same tensors by name: in which order a model has them, servers and clients don't mind."""
        return Signature(*(tuple(sorted(ts, key=lambda t: t.name)) for ts in (self.inputs, self.outputs)))

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, tensors)) for tensors in (self.inputs, self.outputs))
        return f"{inputs} -> {outputs}"


def graph_signature(session: Any) -> Signature:
    """Return what a session of ONNX Runtime takes and gives, all dims included.

    Raises RepositoryError when there is a type or a dim that Triton's backend does not take, or no input.
    """
    inputs, outputs = (tuple(map(_graph_tensor, found)) for found in (session.get_inputs(), session.get_outputs()))
    if not inputs:
        raise RepositoryError("the graph has no input, and so nothing to answer; export the model with one")
    return Signature(inputs, outputs)


def _graph_tensor(found: Any) -> Tensor:
    if found.type not in DATA_TYPES:
        raise RepositoryError(
            f"{found.name} is a {found.type}, which Triton's onnxruntime backend does not take; "
            "export the model with plain tensors, as float32"
        )
    dims = tuple(dim if isinstance(dim, int) else FREE for dim in found.shape or ())
    tensor = Tensor(found.name, DATA_TYPES[found.type][0], dims)
    if 0 in dims:
        raise RepositoryError(f"{tensor} has a dim of 0, which Triton refuses; export the model with dims above 0")
    return tensor


def config_signature(config: model_config_pb2.ModelConfig) -> Signature:
    """Return what a configuration declares."""

    def declared(tensors: Any) -> tuple[Tensor, ...]:
        names = model_config_pb2.DataType.Name
        return tuple(Tensor(t.name, names(t.data_type), tuple(t.dims), t.HasField("reshape")) for t in tensors)

    return Signature(declared(config.input), declared(config.output))


def fill(tensor: Tensor, item: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return an item's shape for a declared tensor: the one given, else its own dims, with 1 where they are free."""
    return item if item is not None else tuple(1 if dim == FREE else dim for dim in tensor.dims)


def fits(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    """Return whether a shape is one that dims allow."""
    return len(shape) == len(dims) and all(dim in (FREE, size) for size, dim in zip(shape, dims, strict=True))
