"""Requests by hand must be what the generated code reads."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from orchestrator.errors import WrongAnswerError
from orchestrator.snapshot import ModelName, ServedModel, TensorSpec
from orchestrator.triton.infer_wire import (
    NUMPY_TYPES,
    InferAnswers,
    InferRequests,
    as_model_takes,
    decode_outputs,
    decode_tensor,
    encode_tensor,
)
from tests.fakes.servers import served_model

SPEC = TensorSpec("logits", "FP32", (3,))


@pytest.mark.parametrize("items", [1, 3, 200])
def test_a_request_is_read_as_it_was_meant(items: int) -> None:
    requests = InferRequests()
    for seed in range(2):  # the second time from what was kept
        x = np.random.default_rng(seed).random((items, 1, 28, 28), np.float32)
        y = np.arange(items, dtype=np.int64)[::-1]  # not contiguous
        found = service_pb2.ModelInferRequest.FromString(b"".join(requests.encode("m", {"x": x, "y": y}, ["a", "b"])))
        assert found.model_name == "m"
        assert [(t.name, t.datatype, list(t.shape)) for t in found.inputs] == [
            ("x", "FP32", [items, 1, 28, 28]),
            ("y", "INT64", [items]),
        ]
        assert [output.name for output in found.outputs] == ["a", "b"]
        assert list(found.raw_input_contents) == [x.tobytes(), y.tobytes()]


def test_text_is_sent_as_bytes_with_their_lengths() -> None:
    text = np.array([b"one", b"three"], dtype=object)
    found = service_pb2.ModelInferRequest.FromString(b"".join(InferRequests().encode("m", {"t": text}, [])))
    assert found.inputs[0].datatype == "BYTES"
    assert list(found.raw_input_contents) == [b"\3\0\0\0one\5\0\0\0three"]


def test_outputs_come_as_arrays_and_a_missing_one_is_named() -> None:
    answer = service_pb2.ModelInferResponse(model_name="m")
    answer.outputs.add(name="logits", datatype="FP32", shape=[2, 2])
    answer.raw_output_contents.append(np.arange(4, dtype=np.float32).tobytes())
    message = answer.SerializeToString()
    assert decode_outputs(message, "m", ["logits"])["logits"].tolist() == [[0, 1], [2, 3]]
    with pytest.raises(WrongAnswerError, match="without its output 'probabilities'"):
        decode_outputs(message, "m", ["probabilities"])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"shape": [2, 3]}, r"16 bytes, which are no FP32 of shape \[2, 3\]"),
        ({"shape": [-1, 2]}, r"no FP32 of shape \[-1, 2\]"),
        ({"datatype": "FP64"}, r"no FP64 of shape \[2, 2\]"),
        ({"datatype": "FLOAT"}, r"no FLOAT of shape \[2, 2\]"),
        ({"datatype": "BYTES", "shape": [1]}, r"no BYTES of shape \[1\]"),
        ({"raw": b"odd"}, r"3 bytes, which are no FP32"),
        ({"raw": b""}, r"0 bytes, which are no FP32"),
        ({"name": "logit"}, "without its output 'logits'"),
    ],
)
def test_bytes_against_their_shape_and_type_are_a_wrong_answer(damage: dict[str, Any], problem: str) -> None:
    tensor = {"name": "logits", "datatype": "FP32", "shape": [2, 2], "raw": np.ones(4, np.float32).tobytes()} | damage
    answer = service_pb2.ModelInferResponse(raw_output_contents=[tensor.pop("raw")])
    answer.outputs.add(**tensor)
    with pytest.raises(WrongAnswerError, match=problem):
        decode_outputs(answer.SerializeToString(), "m", ["logits"])


@given(st.binary(max_size=80), st.integers(0, 100))
def test_whatever_comes_is_an_answer_or_a_wrong_answer(noise: bytes, place: int) -> None:
    good = answer_of(np.ones((1, 3), np.float32))
    for message in (noise, good[:place] + noise + good[place:], good[:place]):
        with contextlib.suppress(WrongAnswerError):
            assert read(InferAnswers(), SPEC, message).shape[1:] == (3,)


def test_an_answer_of_another_type_or_shape_than_the_model_says_is_wrong() -> None:
    answers = InferAnswers()
    right = np.zeros((2, 3), np.float32)
    for wrong in (np.zeros((2, 3), np.int32), np.zeros((3, 2), np.float32), np.zeros(6, np.float32)):
        with pytest.raises(WrongAnswerError, match=r"its output 'logits' is FP32 of shape \[-1, 3\]"):
            read(answers, SPEC, answer_of(wrong))
        assert read(answers, SPEC, answer_of(right)).shape == (2, 3)


def model_of(*outputs: TensorSpec, is_batching: bool = True) -> ServedModel:
    return replace(served_model(25), name=ModelName("m"), outputs=outputs, is_batching=is_batching)


def read(answers: InferAnswers, output: TensorSpec, message: bytes) -> np.ndarray:
    (found,) = answers.decode(model_of(output), message)
    return found


def answer_of(scores: np.ndarray, **more: Any) -> bytes:
    answer = service_pb2.ModelInferResponse(model_name="m", **more)
    answer.outputs.add(name="logits", datatype=np_to_triton_dtype(scores.dtype), shape=scores.shape)
    answer.raw_output_contents.append(scores.tobytes())
    message: bytes = answer.SerializeToString()
    return message


def test_answers_that_begin_alike_are_read_alike_and_others_anew() -> None:
    answers = InferAnswers()
    some = np.random.default_rng(0).random((4, 2, 3), np.float32)
    ints = np.arange(6, dtype=np.int32).reshape(2, 3)  # as many bytes, another type
    flat = some[0].reshape(3, 2)  # as many bytes, another shape
    for scores in (*some, ints, flat, some[1], some[0, :1], *some):
        spec = TensorSpec("logits", np_to_triton_dtype(scores.dtype), (-1,))
        found = read(answers, spec, answer_of(scores))
        assert found.dtype == scores.dtype
        assert np.array_equal(found, scores)
    assert np.array_equal(read(answers, SPEC, answer_of(some[2], id="17")), some[2])


def test_an_answer_without_data_or_with_two_outputs_is_read_as_the_generated_code_reads_it() -> None:
    answers = InferAnswers()
    message = service_pb2.ModelInferResponse.FromString(answer_of(np.ones((1, 2), np.float32)))
    message.outputs.add(name="more", datatype="FP32", shape=(1, 2))
    message.raw_output_contents.append(np.full((1, 2), 2, np.float32).tobytes())
    for _ in range(2):
        for name, scores in (("logits", [[1, 1]]), ("more", [[2, 2]])):
            spec = TensorSpec(name, "FP32", (2,))
            assert read(answers, spec, message.SerializeToString()).tolist() == scores
    del message.outputs[:]
    with pytest.raises(WrongAnswerError, match="without its output"):
        read(answers, SPEC, message.SerializeToString())


def test_several_outputs_come_in_the_order_of_the_model() -> None:
    message = service_pb2.ModelInferResponse(model_name="m")
    message.outputs.add(name="count", datatype="INT64", shape=(2,))
    message.outputs.add(name="boxes", datatype="FP32", shape=(2, 3, 4))
    boxes = np.random.default_rng(0).random((2, 3, 4), np.float32)
    message.raw_output_contents.extend([np.array([5, 7]).tobytes(), boxes.tobytes()])
    model = model_of(TensorSpec("boxes", "FP32", (-1, 4)), TensorSpec("count", "INT64", ()))
    first, second = InferAnswers().decode(model, message.SerializeToString())
    assert np.array_equal(first, boxes)
    assert second.tolist() == [5, 7]
    with pytest.raises(WrongAnswerError, match=r"its output 'boxes' is FP32 of shape \[-1, 9, 4\]"):
        InferAnswers().decode(model_of(TensorSpec("boxes", "FP32", (9, 4))), message.SerializeToString())


def test_a_model_without_a_batch_dimension_gets_and_gives_one_item() -> None:
    model = replace(model_of(SPEC, is_batching=False), inputs=(TensorSpec("x", "FP32", (1, 2)),))
    assert as_model_takes((np.ones((1, 1, 2), np.float32),), model)["x"].shape == (1, 2)
    (found,) = InferAnswers().decode(model, answer_of(np.ones(3, np.float32)))
    assert found.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_every_type_is_read_back_as_it_was_written(datatype: str) -> None:
    if datatype == "BYTES":
        array = np.array([[b"", b"one"], ["é".encode(), b"\0"]], object)
    else:
        array = np.array([[0, 1], [1, 0.5]]).astype(NUMPY_TYPES[datatype])
    found = decode_tensor(encode_tensor(array, datatype), datatype, (2, 2))
    assert found.dtype == np.dtype(NUMPY_TYPES[datatype])
    assert found.tolist() == array.tolist()
