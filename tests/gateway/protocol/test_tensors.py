"""Datatypes between bytes, JSON and protobuf."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.tensors import (
    DATATYPES,
    count_elements,
    decode_bytes,
    from_contents,
    from_json,
    to_json,
    topk_strings,
)
from orchestrator.triton.infer_wire import encode_elements
from tests.gateway.protocol.strategies import Tensor, tensors


def equal(datatype: str, one: bytes, other: bytes) -> bool:
    kind = DATATYPES[datatype].numpy
    if datatype not in ("FP32", "FP64"):
        return one == other
    # Which of the many NaNs it was is lost in JSON.
    return np.array_equal(np.frombuffer(one, kind), np.frombuffer(other, kind), equal_nan=True)


def values_of(tensor: Tensor) -> list[Any]:
    return [value for values in to_json("t", tensor.datatype, tensor.raw) for value in values]


@given(tensors(json_only=True))
def test_json_gives_back_every_tensor(tensor: Tensor) -> None:
    text = json.dumps(values_of(tensor))
    back = from_json("t", tensor.datatype, tensor.shape, json.loads(text))
    assert equal(tensor.datatype, back, tensor.raw)


@given(tensors(json_only=True))
def test_typed_contents_give_back_every_tensor(tensor: Tensor) -> None:
    contents = pb.InferTensorContents()
    field = DATATYPES[tensor.datatype].contents_field
    assert field is not None
    data = decode_bytes(tensor.raw, "t") if tensor.datatype == "BYTES" else values_of(tensor)
    getattr(contents, field).extend(data)
    assert equal(tensor.datatype, from_contents("t", tensor.datatype, contents), tensor.raw)


@given(st.lists(st.binary()))
def test_bytes_elements_come_apart_again(elements: list[bytes]) -> None:
    assert decode_bytes(encode_elements(elements), "t") == elements


@given(st.binary())
def test_no_bytes_crash_the_decoder(raw: bytes) -> None:
    try:
        decode_bytes(raw, "t")
    except ConfigError as exc:
        assert "incomplete string" in str(exc)


def test_nested_and_flat_data_are_the_same() -> None:
    nested = from_json("x", "INT32", [2, 2], [[1, 2], [3, 4]])
    assert nested == from_json("x", "INT32", [2, 2], [1, 2, 3, 4]) == np.arange(1, 5, dtype="<i4").tobytes()
    assert from_json("x", "FP32", [], 5) == np.float32(5).tobytes()
    deep: object = 1.0
    for _ in range(5000):
        deep = [deep]
    assert from_json("x", "FP32", [1], deep) == np.float32(1).tobytes()


@pytest.mark.parametrize(
    ("datatype", "data", "problem"),
    [
        ("FP16", [1.0], "receiving FP16 data via JSON is not supported"),
        ("BF16", [1.0], "receiving BF16 data via JSON is not supported"),
        ("FP32", [True], "which is no FP32"),
        ("FP32", ["1"], "which is no FP32"),
        ("FP32", [None], "which is no FP32"),
        ("FP32", [1, 2], "Shape does not match"),
        ("FP32", {}, "which is no FP32"),
        ("INT8", [128], "no INT8"),
        ("UINT8", [-1], "no UINT8"),
        ("INT32", [1.5], "no INT32"),
        ("INT64", [2**63], "no INT64"),
        ("BOOL", [1], "no BOOL"),
        ("BYTES", [1], "something else than strings"),
        ("BYTES", ["\ud800"], "no Unicode"),
        ("FOO", [1], "invalid datatype"),
    ],
)
def test_values_that_are_none_of_the_type_are_refused(datatype: str, data: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_json("x", datatype, [1], data)


def test_values_beyond_the_range_of_fp32_become_infinite() -> None:
    assert [*to_json("x", "FP32", from_json("x", "FP32", [2], [1e39, -1e39]))] == [[float("inf"), float("-inf")]]


def test_the_best_classes_are_written_as_triton_does() -> None:
    scores = np.array([0.5, 3.589127, -2.0, 3.589127], np.float32)
    assert topk_strings(scores, 3, ("a", "b")) == [b"3.589127:1:b", b"3.589127:3", b"0.500000:0:a"]
    assert len(topk_strings(scores, 99, ())) == 4


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_whole_numbers_are_ranked_exactly_and_written_whole_as_triton_does(kind: str) -> None:
    limits = np.iinfo(kind)
    scores = np.array([limits.min, limits.max - 1, limits.max, limits.min], kind)
    best = [f"{limits.max}:2", f"{limits.max - 1}:1", f"{limits.min}:0", f"{limits.min}:3"]
    assert topk_strings(scores, 4, ()) == [text.encode() for text in best]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20), st.integers(1, 30))
def test_the_best_classes_are_the_best(scores: list[float], count: int) -> None:
    found = [text.decode().split(":") for text in topk_strings(np.array(scores, np.float32), count, ())]
    assert [float(np.float32(scores[int(index)])) for _, index in found] == sorted(scores, reverse=True)[:count]
    assert len({index for _, index in found}) == min(count, len(scores))


@given(st.lists(st.integers(0, 5)))
def test_a_scalar_has_one_element(shape: list[int]) -> None:
    assert count_elements(shape) == int(np.prod(shape))
