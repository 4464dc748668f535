"""Requests and responses of families that are not parsed or built anew mean what the generated code says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError, ModelNotFoundError
from orchestrator.gateway.protocol.family import FamilyModel, FamilyRequest, build_response, merge_widths, read_request
from orchestrator.gateway.protocol.family_requests import FamilyRequests
from orchestrator.gateway.protocol.family_responses import FamilyResponses
from orchestrator.gateway.protocol.messages import parse, pb
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.router import Answer
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import served_model
from tests.gateway.calls import item_request

FAMILY = merge_widths([served_model(25), served_model(100)])
FAMILIES = {"fashion": FAMILY}


def read(requests: FamilyRequests, message: bytes) -> FamilyRequest:
    found = requests.find(message, FAMILIES)
    return requests.read(message, FAMILY) if found is None else found[1]


def same(one: FamilyRequest, other: FamilyRequest) -> bool:
    return (
        one.batch.tobytes() == other.batch.tobytes()
        and (one.batch.dtype, one.batch.shape) == (other.batch.dtype, other.batch.shape)
        and (one.options, one.classes, one.id) == (other.options, other.classes, other.id)
    )


def test_requests_that_are_alike_are_known_by_their_bytes() -> None:
    requests = FamilyRequests()
    for mark in range(3):
        message = item_request(mark, id=f"request {mark}", parameters={"slim_width": 25}).SerializeToString()
        assert (requests.find(message, FAMILIES) is not None) == (mark > 0)
        found = read(requests, message)
        assert (found.id, found.options.width) == (f"request {mark}", 25)
        assert float(found.batch.flat[0]) == mark
    unnamed = item_request(7, parameters={"slim_width": 25}).SerializeToString()
    found = read(requests, unnamed)
    assert (found.id, float(found.batch.flat[0])) == ("", 7)


def test_a_family_that_has_changed_or_gone_is_looked_at_anew() -> None:
    requests = FamilyRequests()
    message = item_request(1).SerializeToString()
    read(requests, message)
    assert requests.find(message, {"fashion": replace(FAMILY)}) is not None
    assert requests.find(message, {}) is None
    assert requests.find(message, {"fashion": replace(FAMILY, max_batch_size=1)}) is None


@pytest.mark.parametrize("twist", ["two tensors of data", "a second id", "a second model", "typed contents", "no data"])
def test_what_is_written_otherwise_is_always_parsed(twist: str) -> None:
    requests, request = FamilyRequests(), item_request(1, id="a")
    message = request.SerializeToString()
    if twist == "two tensors of data":
        message += b"\x3a\x10" + request.raw_input_contents[0]
    elif twist == "a second id":
        message = pb.ModelInferRequest(model_name="fashion", id="a").SerializeToString() + message
    elif twist == "a second model":
        message = pb.ModelInferRequest(model_name="other").SerializeToString() + message
    elif twist == "typed contents":
        request.inputs[0].contents.fp32_contents[:] = [1.0] * 4
        del request.raw_input_contents[:]
        message = request.SerializeToString()
    else:
        del request.raw_input_contents[:]
        with pytest.raises(ConfigError):
            requests.read(request.SerializeToString(), FAMILY)
        return
    requests.read(message, FAMILY)
    assert requests.find(message, FAMILIES) is None


def test_versions_that_there_are_not_are_refused_before_anything_else() -> None:
    for version, error in (("2", ModelNotFoundError), ("x", ConfigError)):
        request = item_request(1)
        request.model_version = version
        with pytest.raises(error):
            FamilyRequests().read(request.SerializeToString(), FAMILY)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    parameters: dict[str, Any] = draw(
        st.fixed_dictionaries({}, optional={"slim_width": st.sampled_from([25, 100]), "priority": st.integers(0, 3)})
    )
    request = item_request(
        draw(st.integers(0, 9)), items=draw(st.integers(1, 3)), id=draw(st.text(max_size=3)), parameters=parameters
    )
    message = bytearray(request.SerializeToString())
    for _ in range(draw(st.integers(0, 2))):  # often none
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message)


@given(st.lists(messages(), min_size=1, max_size=8))
def test_whatever_came_before_a_message_is_read_as_it_is_parsed(sequence: list[bytes]) -> None:
    requests = FamilyRequests()
    for message in (*sequence, *sequence):
        try:
            expected = read_request(parse(pb.ModelInferRequest, message), FAMILY)
        except (ConfigError, MalformedMessageError):
            assert requests.find(message, FAMILIES) is None
            continue
        found = requests.find(message, FAMILIES)
        if found is not None:
            assert same(found[1], expected)
            continue
        with suppress(ConfigError, ModelNotFoundError):  # a version that there is not
            assert same(requests.read(message, FAMILY), expected)


def answer_of(output: np.ndarray, **more: Any) -> Answer:
    known: dict[str, Any] = {
        "output": output,
        "labels": ("a", "b"),
        "server": ServerName("s0"),
        "width": Width(25),
        "batch": len(output),
        "queue_s": 0.000123,
        "latency_s": 0.1,
        "deadline_met": True,
        "expected_accuracy": 0.905,
        "decision_id": "f00-1",
        "policy": "lert:slack",
    }
    return Answer(**{**known, **more})


@given(
    st.text(max_size=4),
    st.integers(1, 200),
    st.sampled_from([None, 0.0, 0.25, 1e9]),
    st.floats(0, 1e4),
    st.integers(1, 10**6),
    st.sampled_from([None, 1, 2]),
)
def test_a_response_is_what_the_generated_code_would_write(
    request_id: str, items: int, energy_j: float | None, queue_s: float, batch: int, classes: int | None
) -> None:
    responses = FamilyResponses()
    for seed in range(2):  # the second time from what was kept
        scores = np.random.default_rng(seed).random((items, 2), np.float32)
        answer = answer_of(scores, energy_j=energy_j, queue_s=queue_s, batch=batch, decision_id=f"f00-{seed}")
        written = responses.render(request_id, FAMILY, answer, classes)
        assert pb.ModelInferResponse.FromString(written) == build_response(request_id, FAMILY, answer, classes)


def test_answers_of_other_servers_widths_and_families_are_told_apart() -> None:
    responses, scores = FamilyResponses(), np.zeros((1, 2), np.float32)
    other: FamilyModel = replace(FAMILY, output=replace(FAMILY.output, name="scores"))
    for family in (FAMILY, other):
        for server in ("s0", "s1"):
            for width in (25, 100):
                answer = answer_of(scores, server=ServerName(server), width=Width(width))
                written = responses.render("", family, answer, None)
                assert pb.ModelInferResponse.FromString(written) == build_response("", family, answer, None)
