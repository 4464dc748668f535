"""``slimsched gateway`` answers what a real Triton answers, in what is right and in what is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from orchestrator.gateway.protocol.messages import pb
from tests.gateway.running import Addresses, call, fetch, images, raw_request

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("width", [25, 100])
def test_a_pinned_width_answers_what_the_width_itself_does(gateway: Addresses, direct: Addresses, width: int) -> None:
    for outputs in ({}, {"logits": None}, {"logits": 3}, {"logits": 99}):
        name = f"fashion_w{width:03d}"
        pixels = {"shape": (5, 1, 28, 28), "raw": images(5).tobytes(), "outputs": outputs}
        _, answer = call(
            gateway.grpc, "ModelInfer", raw_request("fashion", slim_width=width, **pixels).SerializeToString()
        )
        _, expected = call(direct.grpc, "ModelInfer", raw_request(name, **pixels).SerializeToString())
        ours, theirs = (pb.ModelInferResponse.FromString(message) for message in (answer, expected))
        assert ours.outputs == theirs.outputs
        if outputs in ({}, {"logits": None}):
            found, wanted = (np.frombuffer(m.raw_output_contents[0], np.float32) for m in (ours, theirs))
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        else:
            assert ours.raw_output_contents == theirs.raw_output_contents
        assert ours.parameters["slim_width"].int64_param == width


def twice(request: Any) -> Any:
    request.inputs.append(request.inputs[0])
    return request


def typed(request: Any) -> Any:
    del request.raw_input_contents[:]
    request.inputs[0].contents.int_contents.extend([1] * 784)
    return request


BAD = [
    raw_request("M", name="foo"),
    raw_request("M", shape=(1, 1, 28, 27)),
    raw_request("M", shape=(1, 28, 28)),
    raw_request("M", shape=(65, 1, 28, 28)),
    raw_request("M", shape=(0, 1, 28, 28)),
    raw_request("M", shape=(-1, 1, 28, 28), raw=b""),
    raw_request("M", shape=(2**50, 1, 28, 28), raw=b""),
    raw_request("M", datatype="FP64"),
    raw_request("M", datatype="FOO"),
    raw_request("M", raw=b"1234"),
    raw_request("M", outputs={"foo": None}),
    raw_request("M", outputs={"logits": 0}),
    raw_request("M", outputs={"logits": -1}),
    raw_request("M", version="9"),
    raw_request("M", version="x"),
    raw_request("M", version="9" * 40),
    twice(raw_request("M")),
    typed(raw_request("M")),
    raw_request("nope"),
    raw_request(""),
    raw_request("M", triton_foo=1),
    raw_request("M", priority="x"),
    raw_request("M", priority=-1),
    raw_request("M", timeout="x"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_requests_get_the_status_that_triton_gives(gateway: Addresses, direct: Addresses, number: int) -> None:
    codes = []
    for addresses, model in ((gateway, "fashion"), (direct, "fashion_w025")):
        request = pb.ModelInferRequest()
        request.CopyFrom(BAD[number])
        if request.model_name == "M":
            request.model_name = model
        codes.append(call(addresses.grpc, "ModelInfer", request.SerializeToString()))
    (ours, our_detail), (theirs, their_detail) = codes
    assert ours == theirs != "OK", (our_detail, their_detail)
    if min(BAD[number].inputs[0].shape) > 0 and BAD[number].inputs[0].shape[0] < 2**32:  # else Triton says nonsense
        assert our_detail == their_detail.replace(b"fashion_w025", b"fashion")


def test_a_timeout_below_0_says_nothing_over_grpc(gateway: Addresses, direct: Addresses) -> None:
    for addresses, model in ((gateway, "fashion"), (direct, "fashion_w025")):
        status, detail = call(addresses.grpc, "ModelInfer", raw_request(model, timeout=-1).SerializeToString())
        assert status == "OK", detail


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x07fashion\x2a\x01\xff"])
def test_bytes_that_are_no_message_get_the_status_that_triton_gives(
    gateway: Addresses, direct: Addresses, message: bytes
) -> None:
    assert call(gateway.grpc, "ModelInfer", message) == call(direct.grpc, "ModelInfer", message)


def test_no_classes_of_words_are_asked_of_a_triton_which_would_end_by_it(gateway: Addresses, direct: Addresses) -> None:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}
    content = {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
    status, _, body = fetch(gateway, "/v2/models/text/infer", json.dumps(content).encode())
    message = raw_request(
        "text", name="x", datatype="BYTES", shape=(1, 2), raw=b"\1\0\0\0a\1\0\0\0b", outputs={"y": 1}
    ).SerializeToString()
    unsupported = b"class result not available for output due to unsupported type 'BYTES'"
    assert (status, json.loads(body)["error"].encode()) == (400, unsupported)
    assert call(gateway.grpc, "ModelInfer", message) == ("INVALID_ARGUMENT", unsupported)
    streamed = pb.ModelStreamInferResponse.FromString(call(gateway.grpc, "ModelStreamInfer", message)[1])
    assert streamed.error_message.encode() == unsupported
    half = raw_request("half", name="x", datatype="FP16", shape=(1, 2), raw=bytes(4), outputs={"y": 1})
    answers = [call(addresses.grpc, "ModelInfer", half.SerializeToString()) for addresses in (gateway, direct)]
    assert answers[0] == answers[1] == ("INVALID_ARGUMENT", unsupported.replace(b"BYTES", b"FP16"))
    assert call(direct.grpc, "ServerReady", b"")[0] == "OK"


FOREIGN = {
    "plus": ("FP32", (2, 4), np.arange(8, dtype=np.float32).tobytes()),
    "half": ("FP16", (1, 2), b"\x00\x7e\x01\xfc"),  # a NaN and an infinity with their very bits
    "bool": ("BOOL", (1, 2), b"\x01\x00"),
    "int64": ("INT64", (1, 2), np.array([2**62, -1]).tobytes()),
    "text": ("BYTES", (1, 2), b"\x02\0\0\0\xc3\xa9\0\0\0\0"),
}


@pytest.mark.parametrize("model", FOREIGN)
def test_other_models_answer_byte_for_byte_over_grpc(gateway: Addresses, direct: Addresses, model: str) -> None:
    datatype, shape, raw = FOREIGN[model]
    request = raw_request(model, name="x", datatype=datatype, shape=shape, raw=raw, id="7", custom="c", sequence_id=5)
    message = request.SerializeToString()
    ours, theirs = call(gateway.grpc, "ModelInfer", message), call(direct.grpc, "ModelInfer", message)
    assert ours == theirs
    assert ours[0] == "OK"
    for method, kind in (("ModelMetadata", pb.ModelMetadataRequest), ("ModelConfig", pb.ModelConfigRequest)):
        asked = kind(name=model).SerializeToString()
        status, answer = call(gateway.grpc, method, asked)
        assert (status, len(answer)) == ("OK", len(call(direct.grpc, method, asked)[1]))
    wrong = raw_request(model, name="x", datatype=datatype, shape=(1, 9), raw=raw).SerializeToString()
    assert call(gateway.grpc, "ModelInfer", wrong) == call(direct.grpc, "ModelInfer", wrong)


@pytest.mark.parametrize("model", FOREIGN)
@pytest.mark.parametrize("is_binary", [True, False])
def test_other_models_answer_byte_for_byte_over_http(
    gateway: Addresses, direct: Addresses, model: str, is_binary: bool
) -> None:
    datatype, shape, raw = FOREIGN[model]
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    content = {"id": "7", "inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": is_binary}}]}
    text = json.dumps(content).encode()
    path, length = f"/v2/models/{model}/infer", str(len(text))
    ours, theirs = (
        fetch(addresses, path, text + raw, Inference_Header_Content_Length=length) for addresses in (gateway, direct)
    )
    assert ours[0] == theirs[0]
    if theirs[0] == 200:
        assert ours[2] == theirs[2]
        assert ours[1].get("Inference-Header-Content-Length") == theirs[1].get("Inference-Header-Content-Length")
    else:
        assert (model, is_binary) == ("half", False), "only FP16 has no form in JSON"
        assert all(b"sending FP16 data via JSON is not supported" in answer[2] for answer in (ours, theirs))


WORDED: list[tuple[str, bytes, dict[str, str]]] = [
    *(
        (f"/v2/models/{model}/infer", bytes(8), {"Inference_Header_Content_Length": "0"})
        for model in ("words", "text", "two")
    ),
    ("/v2/models/plus/infer", json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}).encode(), {}),
    *((f"/v2/models/plus/versions/{version}/infer", b'{"inputs":[]}', {}) for version in ("x", "9", "9" * 40)),
]


@pytest.mark.parametrize("number", range(len(WORDED)))
def test_what_is_wrong_over_http_is_said_in_tritons_words(gateway: Addresses, direct: Addresses, number: int) -> None:
    path, body, headers = WORDED[number]
    ours, theirs = (fetch(addresses, path, body, **headers) for addresses in (gateway, direct))
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert ours[0] in (400, 404)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        *((method, {"name": "plus", "version": "x"}) for method in ("ModelReady", "ModelConfig", "ModelStatistics")),
        *(("ModelStatistics", {"name": "plus", "version": version}) for version in ("9", "9" * 40)),
        ("ModelStatistics", {"name": "nope"}),
    ],
)
def test_what_is_wrong_over_grpc_is_said_in_tritons_words(
    gateway: Addresses, direct: Addresses, method: str, fields: dict[str, str]
) -> None:
    message = getattr(pb, f"{method}Request")(**fields).SerializeToString()
    assert call(gateway.grpc, method, message) == call(direct.grpc, method, message)


def test_json_is_what_triton_writes(gateway: Addresses, direct: Addresses) -> None:
    text = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "é"]}
    two = [{"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} for name in "ab"]
    for path, content in (
        ("/v2/models/plus", None),
        ("/v2/models/plus/generate", {"x": [1, 2, 3, 4], "id": "q"}),
        ("/v2/models/plus/generate_stream", {"x": [1, 2, 3, 4], "id": "q"}),
        ("/v2/models/plus/generate", {"x": [1, 2, 3]}),
        ("/v2/models/text/infer", {"inputs": [text]}),
        ("/v2/models/two/infer", {"inputs": two}),
        ("/v2/models/nope/infer", {"inputs": []}),
    ):
        body = None if content is None else json.dumps(content).encode()
        ours, theirs = fetch(gateway, path, body), fetch(direct, path, body)
        assert (ours[0], ours[2]) == (theirs[0], theirs[2]), path
    ours, theirs = (json.loads(fetch(addresses, "/v2/models/plus/config")[2]) for addresses in (gateway, direct))
    assert {k: v for k, v in theirs.items() if k not in ("metric_tags",)}.items() >= {
        k: v for k, v in ours.items() if k in ("name", "max_batch_size", "input", "output", "parameters")
    }.items()
