"""Wrong requests get from the gateway the class of status that a real Triton gives them, and kill neither.

Compared case by case. What differs, and why: Triton answers 500 to JSON that it can't read, where it is the client's
fault and we say 400; and it ends a stream that brings bytes of no message with OK and without an answer, where we say
INTERNAL, as it does of a call. Left out are requests that end Triton 2.51 itself, which never reach it through the
gateway: JSON nested a hundred thousand deep, and over HTTP a shape whose sides overflow back to the number of values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.gateway.protocol.messages import pb
from tests.gateway.http.bad_http import PATHS, deep, get, infer_cases, post, speak, tensor
from tests.gateway.running import Addresses, call, raw_request, start_gateway, stop_gateway, write_repository
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
INFER = "/v2/models/plus/infer"
GOOD = post(INFER, {"inputs": [tensor()]})
REQUEST: bytes = raw_request("plus", name="x", shape=(1, 4), raw=bytes(16)).SerializeToString()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[tuple[Addresses, Addresses]]:
    """Return where a gateway and the Triton behind it listen."""
    repository = tmp_path_factory.mktemp("repository")
    write_repository(repository)
    options = EmbeddedOptions(models=("plus", "fashion_w025"), exit_timeout_s=2)
    with tritons.running(repository, options) as server:
        process = start_gateway(tmp_path_factory.mktemp("fleet"), [server])
        yield process.addresses, Addresses(server.grpc_address, server.http_address)
        assert stop_gateway(process) == 0, process.lines
        assert not [line for line in process.lines if "ERROR" in line or "Traceback" in line]


def statuses(both: tuple[Addresses, Addresses], request: bytes) -> tuple[int | None, int | None]:
    ours, theirs = (asyncio.run(speak(addresses.http, request)) for addresses in both)
    return ours, theirs


def require_both_alive(both: tuple[Addresses, Addresses]) -> None:
    assert statuses(both, GOOD) == (200, 200)


@pytest.mark.parametrize("what", infer_cases(INFER))
def test_a_wrong_inference_gets_tritons_status_or_400_where_triton_says_500(
    both: tuple[Addresses, Addresses], what: str
) -> None:
    ours, theirs = statuses(both, infer_cases(INFER)[what])
    assert theirs in (400, 500, 501), "else the case is not wrong"
    assert ours == (400 if theirs == 500 else theirs)
    require_both_alive(both)


def test_paths_at_which_nothing_is_are_refused_by_both(both: tuple[Addresses, Addresses]) -> None:
    for path in PATHS:
        ours, theirs = statuses(both, get(path.replace("M", "plus")))
        assert {ours, theirs} <= {400, 404}, path
    require_both_alive(both)


def test_what_ends_a_triton_does_not_reach_it(both: tuple[Addresses, Addresses]) -> None:
    gateway, _ = both
    for request in (
        post(INFER, {"inputs": [tensor(shape=[2**32, 2**32 + 1, 4])]}),
        post(INFER, {"inputs": [tensor(shape=[2**62, 4])]}),
        post(INFER, deep(100_000)),
    ):
        assert asyncio.run(speak(gateway.http, request)) == 400
    message = raw_request("plus", name="x", shape=(2**62, 4), raw=bytes(16)).SerializeToString()
    assert call(gateway.grpc, "ModelInfer", message)[0] == "INVALID_ARGUMENT"
    require_both_alive(both)


NO_MESSAGES = {
    "no tag": b"\xff" * 12,
    "a field cut off": REQUEST[:-3],
    "a length beyond the end": REQUEST + b"\x0a\x7f",
    "a wire type that there is not": REQUEST + b"\x0f",
    "a number where text belongs": REQUEST + b"\x08\x05",
    "a group that does not end": REQUEST + b"\x0b",
    "a name that is no UTF-8": b"\x0a\x02\xc3\x28" + REQUEST,
    "an id that is no UTF-8": REQUEST + b"\x1a\x02\xc3\x28",
}


@pytest.mark.parametrize("what", NO_MESSAGES)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata"])
def test_bytes_of_no_message_get_the_very_status(both: tuple[Addresses, Addresses], what: str, method: str) -> None:
    ours, theirs = (call(addresses.grpc, method, NO_MESSAGES[what])[0] for addresses in both)
    assert ours == theirs
    require_both_alive(both)


@pytest.mark.parametrize("size", [8_000, 40_000, 200_000])
def test_headers_that_are_too_much_are_refused_by_both(both: tuple[Addresses, Addresses], size: int) -> None:
    ours, theirs = statuses(both, GOOD.replace(b"Host: x", b"Host: x\r\nx-much: " + b"y" * size, 1))
    # Triton's own bound is another one, and it says nothing of it: the connection ends.
    assert (ours, theirs) == (200, 200) or (ours in (400, 431, None) and theirs in (200, 400, 431, None))
    require_both_alive(both)


def test_text_that_is_no_utf8_is_refused_by_both(both: tuple[Addresses, Addresses]) -> None:
    for request in (GOOD.replace(b'"x"', b'"\xff"', 1), post(INFER, b"\xff\xfe{}")):
        ours, theirs = statuses(both, request)
        assert theirs in (400, 500)
        assert ours == 400
    require_both_alive(both)


@pytest.mark.parametrize("what", NO_MESSAGES)
def test_a_stream_of_no_messages_is_told_so(both: tuple[Addresses, Addresses], what: str) -> None:
    ours, theirs = (call(addresses.grpc, "ModelStreamInfer", NO_MESSAGES[what])[0] for addresses in both)
    assert (ours, theirs) in (("INTERNAL", "OK"), ("INTERNAL", "INTERNAL"), ("OK", "OK"))
    require_both_alive(both)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request for plus whose sizes, names and types are off; shapes stay below what overflows."""
    request = raw_request("plus", name="x", shape=(1, 4), raw=bytes(16))
    tensor = request.inputs[0]
    for damage in draw(st.lists(st.sampled_from(["shape", "type", "name", "raw", "output", "parameter"]), min_size=1)):
        if damage == "shape":
            tensor.shape[:] = draw(st.lists(st.integers(-2, 9), max_size=4))
        elif damage == "type":
            tensor.datatype = draw(st.sampled_from(["FP32", "FP16", "BYTES", "INT8", "x", ""]))
        elif damage == "name":
            tensor.name = draw(st.sampled_from(["x", "y", "", "é"]))
        elif damage == "raw":
            request.raw_input_contents[:] = draw(st.lists(st.binary(max_size=40), max_size=2))
        elif damage == "output":
            request.outputs.add(name=draw(st.sampled_from(["y", "nope", ""])))
        else:
            name = draw(st.sampled_from(["priority", "timeout", "triton_x", "binary_data"]))
            request.parameters[name].int64_param = draw(st.integers(-3, 3))
    serialised: bytes = request.SerializeToString()
    return serialised


@given(message=damaged())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_requests_over_grpc_get_the_very_status(both: tuple[Addresses, Addresses], message: bytes) -> None:
    ours, theirs = (call(addresses.grpc, "ModelInfer", message)[0] for addresses in both)
    assert ours == theirs, pb.ModelInferRequest.FromString(message)
