"""HTTP bodies to messages and back, for every datatype."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.http.body import choose_encoding, compress, decompress
from orchestrator.gateway.http.codec import OutputForms, parse_infer, parse_raw, render_infer, split_body
from orchestrator.gateway.http.errors import UnsupportedEncodingError
from orchestrator.gateway.http.json_text import dump_json
from orchestrator.gateway.protocol.messages import pb, read_value
from orchestrator.gateway.protocol.wire import build_request
from tests.gateway.protocol.strategies import Tensor, parameters, tensors
from tests.gateway.protocol.test_tensors import equal


def http_request(inputs: list[Tensor], request_parameters: dict[str, Any], **more: object) -> tuple[bytes, bytes]:
    """Return JSON and tail of a request whose tensors are all binary."""
    content = {
        "inputs": [
            {"name": t.name, "datatype": t.datatype, "shape": t.shape, "parameters": {"binary_data_size": len(t.raw)}}
            for t in inputs
        ],
        "parameters": request_parameters,
        **more,
    }
    return json.dumps(content).encode(), b"".join(t.raw for t in inputs)


@given(st.lists(tensors(), max_size=4), parameters)
def test_binary_tensors_arrive_byte_for_byte(inputs: list[Tensor], request_parameters: dict[str, Any]) -> None:
    request_parameters.pop("binary_data_output", None)
    text, tail = http_request(inputs, request_parameters, id="é")
    asked = parse_infer("m", "2", text, tail)
    request = asked.request
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "é")
    assert asked.raws == [t.raw for t in inputs]
    found = [(t.name, t.datatype, list(t.shape)) for t in request.inputs]
    assert found == [(t.name, t.datatype, t.shape) for t in inputs]
    assert {name: read_value(p) for name, p in request.parameters.items()} == request_parameters
    found_again = pb.ModelInferRequest.FromString(build_request(request, asked.raws))
    request.raw_input_contents.extend(map(bytes, asked.raws))
    assert found_again == request


@given(st.lists(tensors(json_only=True), max_size=4, unique_by=lambda t: t.name), st.data())
def test_outputs_come_back_in_the_form_they_were_wanted_in(outputs: list[Tensor], data: st.DataObject) -> None:
    response = pb.ModelInferResponse(model_name="m", model_version="1", id="7")
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    forms = OutputForms(data.draw(st.booleans()), {t.name: data.draw(st.booleans()) for t in outputs[::2]})
    body = render_infer(response, [tensor.raw for tensor in outputs], forms)
    whole = b"".join(body.parts)
    # What answers a request is a request of the same tensors but for the key, so the parser reads it back.
    length = len(whole) if body.json_bytes is None else body.json_bytes
    text = whole[:length].replace(b'"outputs":', b'"inputs":', 1)
    asked = parse_infer("m", "1", text, whole[length:])
    for tensor, raw in zip(outputs, map(bytes, asked.raws), strict=True):
        assert raw == tensor.raw if forms.is_binary(tensor.name) else equal(tensor.datatype, raw, tensor.raw)
    binary = any(forms.is_binary(t.name) for t in outputs)
    assert (body.json_bytes is not None) == binary


def test_types_without_a_form_in_json_go_back_as_binary_only() -> None:
    response = pb.ModelInferResponse(outputs=[{"name": "y", "datatype": "BF16", "shape": [1]}])
    with pytest.raises(ConfigError, match="sending BF16 data via JSON is not supported"):
        render_infer(response, [b"ab"], OutputForms())
    binary = OutputForms(by_default=True)
    assert render_infer(response, [b"ab"], binary).parts[-1] == b"ab"


X = '{"name":"x","datatype":"FP32","shape":[1],'


@pytest.mark.parametrize(
    ("text", "tail", "problem"),
    [
        ('{"inputs":', b"", "failed to parse the request JSON"),
        ("[]", b"", "no object"),
        ("{}", b"", "'inputs'"),
        ('{"inputs":{}}', b"", "'inputs'"),
        ('{"inputs":[1]}', b"", "'inputs'"),
        ('{"id":5,"inputs":[]}', b"", "'id'"),
        ('{"id":"\\ud800","inputs":[]}', b"", "no Unicode text"),
        ('{"parameters":[],"inputs":[]}', b"", "'parameters'"),
        ('{"parameters":{"a":[1]},"inputs":[]}', b"", "parameter 'a' has invalid type"),
        ('{"parameters":{"a":99999999999999999999999},"inputs":[]}', b"", "parameter 'a' has invalid type"),
        ('{"parameters":{"binary_data_output":1},"inputs":[]}', b"", "binary_data_output"),
        ('{"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]}', b"", "'name'"),
        ('{"inputs":[{"name":"x","shape":[1],"data":[1]}]}', b"", "'datatype'"),
        ('{"inputs":[{"name":"x","datatype":"FP33","shape":[1],"data":[1]}]}', b"", "invalid datatype for input x"),
        ('{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}', b"", "'shape'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}]}', b"", "'shape'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[true],"data":[1]}]}', b"", "'shape'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[99999999999999999999],"data":[1]}]}', b"", "'shape'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}', b"", "no field is set"),
        ('{"inputs":[' + X + '"parameters":{"binary_data_size":4}}]}', b"123", "expecting 1 additional bytes"),
        ('{"inputs":[' + X + '"parameters":{"binary_data_size":4}}]}', b"12345", "unexpected additional input data"),
        ('{"inputs":[' + X + '"parameters":{"binary_data_size":-4}}]}', b"", "binary_data_size"),
        ('{"inputs":[' + X + '"data":[1],"parameters":{"binary_data_size":4}}]}', b"1234", "has both"),
        ('{"inputs":[],"outputs":[{"parameters":{}}]}', b"", "'name'"),
        ("[" * 100_000, b"", "failed to parse"),
        ("\xff", b"", "failed to parse"),
    ],
)
def test_what_is_no_inference_request_is_refused(text: str, tail: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_infer("m", "", text.encode("latin-1"), tail)


KEYS = st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
)


@given(JSON)
def test_no_json_crashes_the_parser(content: object) -> None:
    with contextlib.suppress(ConfigError):
        parse_infer("m", "", json.dumps(content).encode(), b"")


@pytest.mark.parametrize(("length", "is_right"), [(None, True), (0, True), (5, True), (6, False), (-1, False)])
def test_the_length_of_the_json_must_lie_in_the_body(length: int | None, is_right: bool) -> None:
    if is_right:
        assert b"".join(split_body(b"12345", length)) == b"12345"
    else:
        with pytest.raises(ConfigError, match="inference header size should be in range"):
            split_body(b"12345", length)


def raw_config(*dims: int, datatype: str = "TYPE_FP32", max_batch_size: int = 8, inputs: int = 1) -> Any:
    config = pb.ModelConfigResponse().config
    config.max_batch_size = max_batch_size
    for number in range(inputs):
        config.input.add(name=f"x{number}", data_type=datatype, dims=dims)
    return config


@pytest.mark.parametrize(
    ("config", "body", "shape", "raw"),
    [
        (raw_config(2), b"12345678", [1, 2], b"12345678"),
        (raw_config(2, max_batch_size=0), b"12345678", [2], b"12345678"),
        (raw_config(-1, 2), b"1234567812345678", [1, 2, 2], b"1234567812345678"),
        (raw_config(1, datatype="TYPE_STRING"), b"abc", [1, 1], b"\x03\0\0\0abc"),
        (raw_config(1, datatype="TYPE_STRING", max_batch_size=0), b"abc", [1], b"\x03\0\0\0abc"),
    ],
)
def test_a_raw_body_is_the_only_input(config: Any, body: bytes, shape: list[int], raw: bytes) -> None:
    asked = parse_raw("m", "", config, body)
    assert list(asked.request.inputs[0].shape) == shape
    assert asked.raws == [raw]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (raw_config(2, inputs=2), r"must only have 1 input \(found 1\) to be deduced but got 2 inputs in 'm'"),
        (raw_config(-1, -1), "more than one variable-sized dimension"),
        (raw_config(-1, 3), "input byte size mismatch for input 'x0' for model 'm'. Expected 0, got 8"),
        *(
            (raw_config(*dims, datatype="TYPE_STRING"), r"must have input shape \[1\]")
            for dims in ([2], [-1], [-1, -1])
        ),
    ],
)
def test_a_raw_body_that_leaves_its_shape_open_is_refused(config: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_raw("m", "", config, b"12345678")


def packed(data: bytes, encoding: str) -> bytes:
    return b"".join(compress([data[:3], data[3:]], encoding))


@given(st.binary(), st.sampled_from(["gzip", "deflate"]))
def test_compressed_bodies_come_back(data: bytes, encoding: str) -> None:
    assert b"".join(decompress(packed(data, encoding), encoding)) == data


def test_a_small_body_that_grows_without_end_is_given_piece_by_piece() -> None:
    assert len(next(decompress(packed(bytes(10**7), "gzip"), "gzip"))) < 10**6


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damaged_bodies_are_refused(encoding: str) -> None:
    good = packed(b"x" * 1000, encoding)
    for damaged in (b"nonsense", good[:-1], good[:10]):
        with pytest.raises(ConfigError):
            list(decompress(damaged, encoding))
    with pytest.raises(UnsupportedEncodingError):
        list(decompress(b"", "br"))


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate, gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("br", None),
        ("GZIP;q=0.5", "gzip"),
    ],
)
def test_the_answers_encoding_is_one_the_client_takes(accepted: str, chosen: str | None) -> None:
    assert choose_encoding(accepted) == chosen


def test_text_that_is_no_utf8_has_its_form_in_json() -> None:
    text = "165\udcd0"  # as a header's byte beyond ASCII is read
    assert json.loads(dump_json({"error": text})) == {"error": text}
