"""Requests by hand must be what the generated code reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from orchestrator.errors import PermanentError
from orchestrator.triton.infer_wire import InferAnswers, InferRequests, decode_outputs


@pytest.mark.parametrize("items", [1, 3, 200])
def test_a_request_is_read_as_it_was_meant(items: int) -> None:
    requests = InferRequests()
    for seed in range(2):  # the second time from what was kept
        x = np.random.default_rng(seed).random((items, 1, 28, 28), np.float32)
        y = np.arange(items, dtype=np.int64)[::-1]  # not contiguous
        found = service_pb2.ModelInferRequest.FromString(requests.encode("m", {"x": x, "y": y}, ["a", "b"]))
        assert found.model_name == "m"
        assert [(t.name, t.datatype, list(t.shape)) for t in found.inputs] == [
            ("x", "FP32", [items, 1, 28, 28]),
            ("y", "INT64", [items]),
        ]
        assert [output.name for output in found.outputs] == ["a", "b"]
        assert list(found.raw_input_contents) == [x.tobytes(), y.tobytes()]


def test_text_is_sent_as_bytes_with_their_lengths() -> None:
    text = np.array([b"one", b"three"], dtype=object)
    found = service_pb2.ModelInferRequest.FromString(InferRequests().encode("m", {"t": text}, []))
    assert found.inputs[0].datatype == "BYTES"
    assert list(found.raw_input_contents) == [b"\3\0\0\0one\5\0\0\0three"]


def test_outputs_come_as_arrays_and_a_missing_one_is_named() -> None:
    answer = service_pb2.ModelInferResponse(model_name="m")
    answer.outputs.add(name="logits", datatype="FP32", shape=[2, 2])
    answer.raw_output_contents.append(np.arange(4, dtype=np.float32).tobytes())
    message = answer.SerializeToString()
    assert decode_outputs(message, "m", ["logits"])["logits"].tolist() == [[0, 1], [2, 3]]
    with pytest.raises(PermanentError, match="without its output 'probabilities'"):
        decode_outputs(message, "m", ["probabilities"])


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
        found = answers.decode("m", "logits", answer_of(scores))
        assert found.dtype == scores.dtype
        assert np.array_equal(found, scores)
    assert np.array_equal(answers.decode("m", "logits", answer_of(some[2], id="17")), some[2])


def test_an_answer_without_data_or_with_two_outputs_is_read_as_the_generated_code_reads_it() -> None:
    answers = InferAnswers()
    message = service_pb2.ModelInferResponse.FromString(answer_of(np.ones((1, 2), np.float32)))
    message.outputs.add(name="more", datatype="FP32", shape=(1, 2))
    message.raw_output_contents.append(np.full((1, 2), 2, np.float32).tobytes())
    for _ in range(2):
        assert answers.decode("m", "logits", message.SerializeToString()).tolist() == [[1, 1]]
        assert answers.decode("m", "more", message.SerializeToString()).tolist() == [[2, 2]]
    del message.outputs[:]
    with pytest.raises(PermanentError, match="without its output"):
        answers.decode("m", "logits", message.SerializeToString())
