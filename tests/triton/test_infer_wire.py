"""Requests by hand must be what the generated code reads."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from orchestrator.errors import PermanentError
from orchestrator.triton.infer_wire import InferRequests, decode_outputs


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
