"""A family as the one model that clients see: which requests it takes, and what its responses hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError, ModelNotFoundError
from orchestrator.gateway.protocol.family import (
    FamilyMessages,
    build_response,
    merge_config,
    merge_widths,
    read_request,
    require_version,
)
from orchestrator.gateway.protocol.messages import parse, pb, read_value, serialise
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.router import Answer
from orchestrator.snapshot import Preprocessing, ServedModel, ServerName, TensorSpec, Width
from orchestrator.triton.families import read_labels, read_preprocessing
from orchestrator.triton.messages import ModelConfig
from tests.fakes.servers import served_model
from tests.gateway.calls import item_request

FAMILY = merge_widths([served_model(25), served_model(100)])


@pytest.mark.parametrize("twist", ["two tensors of data", "a second id", "a second model", "typed contents", "no data"])
def test_what_is_written_otherwise_means_what_the_generated_code_says(twist: str) -> None:
    request = item_request(1, id="a")
    message = serialise(request)
    if twist == "two tensors of data":
        message += b"\x3a\x10" + request.raw_input_contents[0]
    elif twist == "a second id":
        message = serialise(pb.ModelInferRequest(model_name="fashion", id="b")) + message
    elif twist == "a second model":
        message = serialise(pb.ModelInferRequest(model_name="other")) + message
    else:
        if twist == "typed contents":
            request.inputs[0].contents.fp32_contents[:] = [1.0] * 4
        del request.raw_input_contents[:]
        message = serialise(request)
    if twist in ("no data", "two tensors of data"):
        with pytest.raises(
            ConfigError, match="unable to find data" if twist == "no data" else "got 2 raw_input_contents"
        ):
            read_request(parse(pb.ModelInferRequest, message), FAMILY)
        return
    found = read_request(parse(pb.ModelInferRequest, message), FAMILY)
    assert (found.id, found.options.family, found.inputs["pixels"].tolist()) == ("a", "fashion", [[[[1.0] * 2] * 2]])


def test_an_item_may_have_a_side_of_nothing_where_sides_are_free_as_of_triton() -> None:
    model = replace(served_model(25), inputs=(TensorSpec("pixels", "FP32", (-1, 2)),))
    request = pb.ModelInferRequest(model_name="fashion", raw_input_contents=[b""])
    request.inputs.add(name="pixels", datatype="FP32", shape=[3, 0, 2])
    messages, family = FamilyMessages(), merge_widths([model])
    for _ in range(2):  # the second is read as the first was
        found = messages.read(parse(pb.ModelInferRequest, serialise(request)), family)
        assert (found.inputs["pixels"].shape, found.items) == ((3, 0, 2), 3)
    for shape in ([0, 1, 2], [3, -1, 2]):
        request.inputs[0].shape[:] = shape
        with pytest.raises(ConfigError, match="nothing is in it"):
            read_request(request, family)


@pytest.mark.parametrize(("version", "error"), [("2", ModelNotFoundError), ("x", ConfigError)])
def test_versions_that_there_are_not_are_refused(version: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        require_version(FAMILY, version)


@given(
    st.integers(0, 9), st.integers(1, 3), st.text(max_size=3), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)))
)
def test_damaged_messages_are_read_or_refused(mark: int, items: int, id: str, damage: list[tuple[float, int]]) -> None:
    message = bytearray(serialise(item_request(mark, items=items, id=id)))
    for place, byte in damage:
        message[round(place * (len(message) - 1))] = byte
    try:
        found = read_request(parse(pb.ModelInferRequest, bytes(message)), FAMILY)
    except (ConfigError, MalformedMessageError):
        assert damage
    else:
        assert found.inputs["pixels"].shape[1:] == FAMILY.inputs[0].shape


def wanted_as(classes: int | None) -> dict[str, int | None] | None:
    return None if classes is None else {"logits": classes}


def answer_of(output: np.ndarray, **more: Any) -> Answer:
    known: dict[str, Any] = {
        "outputs": {"logits": output},
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
def test_a_response_holds_the_scores_and_what_was_decided(
    request_id: str, items: int, energy_j: float | None, queue_s: float, batch: int, classes: int | None
) -> None:
    scores = np.random.default_rng(items).random((items, 2), np.float32)
    answer = answer_of(scores, energy_j=energy_j, queue_s=queue_s, batch=batch)
    response = parse(pb.ModelInferResponse, serialise(build_response(request_id, FAMILY, answer, wanted_as(classes))))
    assert (response.model_name, response.model_version, response.id) == ("fashion", "1", request_id)
    (output,) = response.outputs
    if classes is None:
        assert (output.datatype, tuple(output.shape)) == ("FP32", scores.shape)
        assert response.raw_output_contents[0] == scores.tobytes()
    else:
        assert (output.datatype, tuple(output.shape)) == ("BYTES", (items, classes))
    parameters = {name: read_value(parameter) for name, parameter in response.parameters.items()}
    assert parameters.pop("slim_energy_j", None) == energy_j
    assert parameters == {
        "slim_server": "s0",
        "slim_width": 25,
        "slim_batch": batch,
        "slim_queue_us": round(queue_s * 1e6),
        "slim_expected_accuracy": 0.905,
        "slim_decision_id": "f00-1",
        "slim_policy": "lert:slack",
    }


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 9), st.integers(1, 3), st.booleans()), max_size=8
    )
)
def test_what_is_kept_of_requests_changes_nothing_about_them(asked: list[tuple[str, int, int, bool]]) -> None:
    messages = FamilyMessages()
    for name, mark, items, has_more in asked:
        request = item_request(mark, items=items, id=name, parameters={"slim_width": 25} if has_more else {})
        if has_more:
            request.outputs.add(name="logits").parameters["classification"].int64_param = 2
        message = serialise(request)
        found = messages.read(parse(pb.ModelInferRequest, message), FAMILY)
        wanted = read_request(parse(pb.ModelInferRequest, message), FAMILY)
        assert (found.id, found.options, found.outputs) == (wanted.id, wanted.options, wanted.outputs)
        assert found.inputs["pixels"].tolist() == wanted.inputs["pixels"].tolist()


@pytest.mark.parametrize("damage", ["short", "twice", "none", "typed", "width", "shape"])
def test_what_is_kept_lets_nothing_wrong_through(damage: str) -> None:
    messages, request = FamilyMessages(), item_request(1)
    messages.read(parse(pb.ModelInferRequest, serialise(request)), FAMILY)
    if damage == "short":
        request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
    elif damage == "twice":
        request.raw_input_contents.append(request.raw_input_contents[0])
    elif damage == "none":
        del request.raw_input_contents[:]
    elif damage == "typed":
        request.inputs[0].contents.fp32_contents.append(1.0)
    elif damage == "width":
        request.parameters["slim_width"].int64_param = 1000
    else:
        request.inputs[0].shape[0] = 2
    for _ in range(2):
        with pytest.raises(ConfigError):
            messages.read(parse(pb.ModelInferRequest, serialise(request)), FAMILY)


def test_another_family_by_the_name_is_read_anew() -> None:
    messages, message = FamilyMessages(), serialise(item_request(1))
    messages.read(parse(pb.ModelInferRequest, message), FAMILY)
    other = replace(FAMILY, inputs=(TensorSpec("pixels", "FP32", (4,)),))
    with pytest.raises(ConfigError, match="unexpected shape"):
        messages.read(parse(pb.ModelInferRequest, message), other)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.integers(1, 100), st.sampled_from(["a", "b"]), st.one_of(st.none(), st.floats(0, 9))
        ),
        max_size=6,
    ),
    st.sampled_from(["", "a", "ä" * 40]),
    st.sampled_from([None, 2]),
)
def test_a_response_written_in_two_parts_is_the_same_message(
    answered: list[tuple[int, int, str, float | None]], request_id: str, classes: int | None
) -> None:
    messages = FamilyMessages()
    for items, width, server, energy_j in answered:
        scores = np.arange(items * 10, dtype=np.float32).reshape(items, 10) * width
        answer = answer_of(scores, width=Width(width), server=ServerName(server), energy_j=energy_j)
        written = pb.ModelInferResponse.FromString(messages.write(request_id, FAMILY, answer, wanted_as(classes)))
        assert written == build_response(request_id, FAMILY, answer, wanted_as(classes))


def test_a_family_s_config_says_what_only_the_fleet_file_knows_of_a_usual_item() -> None:
    model = served_model(25)
    said = replace(model, usual_item=((1, 2, 3),), fills=("random",))
    config = ModelConfig()
    merge_config(config, FAMILY, {25: said})
    (name,) = (spec.name for spec in model.inputs)
    assert json.loads(config.parameters["slim.item"].string_value) == {name: [1, 2, 3]}
    assert json.loads(config.parameters["slim.fill"].string_value) == {name: "random"}
    plain = ModelConfig()
    merge_config(plain, FAMILY, {25: model})
    assert not {"slim.item", "slim.fill"} & set(plain.parameters)


def test_a_family_s_config_says_what_only_the_fleet_file_knows_of_images_and_classes() -> None:
    said = Preprocessing(resize=256, colours="BGR", mean=(0.5, 0.4, 0.3))
    widths: dict[int, ServedModel] = {
        m.width: replace(m, preprocessing=said, labels=("cat", "dog")) for m in (served_model(25), served_model(100))
    }
    config = ModelConfig(name="plates_s", max_batch_size=8)
    merge_config(config, FAMILY, widths)
    found = {key: value.string_value for key, value in config.parameters.items()}
    assert (config.name, found["slim.widths"], found["slim.accuracies"]) == ("fashion", "25,100", "0.905,0.928")
    assert read_preprocessing(found["slim.preprocessing"]) == said
    assert read_labels(found["slim.labels"]) == ("cat", "dog")
    own = ModelConfig()
    own.parameters["slim.preprocessing"].string_value = '{"colours": "L"}'
    merge_config(own, FAMILY, widths)
    assert own.parameters["slim.preprocessing"].string_value == '{"colours": "L"}', "what its config says stays"
