"""Which model a request is for, read off its bytes."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.wire import Address, MalformedMessageError, check_inference, read_address
from tests.gateway.protocol.mutated_messages import compare, mutated
from tests.gateway.protocol.strategies import Tensor, names, tensors

HUGE = b"\x80\x80\x80\x80\x80\x80\x80\x80\x40"  # 2^62
SEQUENCES = st.one_of(st.none(), st.integers(0, 2**63 - 1), st.text(max_size=9))


@given(names, names, st.lists(tensors(), max_size=3), SEQUENCES)
def test_the_address_is_what_a_full_parse_finds(
    model: str, version: str, inputs: list[Tensor], sequence: int | str | None
) -> None:
    request = pb.ModelInferRequest(model_name=model, model_version=version, id="x")
    request.parameters["priority"].uint64_param = 2
    if isinstance(sequence, int):
        request.parameters["sequence_id"].int64_param = sequence
    elif sequence is not None:
        request.parameters["sequence_id"].string_param = sequence
    for tensor in inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    found = read_address(request.SerializeToString())
    assert (found.model, found.version) == (model, version)
    assert bool(found.sequence) == (sequence is not None)


def test_the_last_name_counts_as_in_protocol_buffers() -> None:
    twice = b"".join(pb.ModelInferRequest(model_name=name).SerializeToString() for name in ("first", "second"))
    assert read_address(twice) == Address("second")
    assert pb.ModelInferRequest.FromString(twice).model_name == "second"


@given(st.binary(max_size=60))
def test_no_bytes_crash_it_and_none_is_taken_for_another_model(message: bytes) -> None:
    try:
        found = read_address(message)
    except MalformedMessageError:
        return
    try:
        parsed = pb.ModelInferRequest.FromString(message)
    except Exception:
        return  # a field inside is damaged, which only the server of the model would notice
    assert found.model == parsed.model_name


@pytest.mark.parametrize(
    "damage",
    [
        b"\x8a\x80\x80\x80\x10\x05other",  # the key of field 1 with a bit beyond 32, which C++ drops
        b"\x8a\x80\x80\x80\x80\x00\x05other",  # a key of six bytes
        b"\x0a\x85\x80\x80\x80\x80\x00other",  # a length of six bytes
        b"\x0a\xff\xff\xff\xff\x0fother",  # a length beyond 31 bits
        b"\x02\x05other",  # field 0
        b"\x0b\x0c",  # a group
        b"\x7e",  # no wire type
        b"\x78" + b"\x80" * 9 + b"\x02",  # a number beyond 64 bits
        b"\x79\x00",  # eight bytes, of which one is there
    ],
)
def test_what_protobuf_libraries_read_unlike_is_refused(damage: bytes) -> None:
    message = pb.ModelInferRequest(model_name="fashion").SerializeToString() + damage
    for read in (read_address, check_inference):
        with pytest.raises(MalformedMessageError, match="Unable to parse request"):
            read(message)


@pytest.mark.parametrize(
    "shape", [b"\x1a\x0a" + HUGE + b"\x04", b"\x18" + HUGE + b"\x18\x04", b"\x1a\x09" + HUGE + b"\x18\x04"]
)
def test_a_shape_is_found_packed_and_side_by_side(shape: bytes) -> None:
    message = b"\x2a" + bytes([len(shape)]) + shape
    assert list(pb.ModelInferRequest.FromString(message).inputs[0].shape) == [2**62, 4]
    with pytest.raises(ConfigError, match="exceed maximum size of INT64"):
        check_inference(message)


def test_no_tensor_is_in_shared_memory() -> None:
    for place in ("inputs", "outputs"):
        request = pb.ModelInferRequest()
        getattr(request, place).add(name="x").parameters["shared_memory_region"].string_param = "somebody_elses"
        with pytest.raises(ConfigError, match="shared memory, which the gateway does not take"):
            check_inference(request.SerializeToString())


def test_outputs_that_are_wanted_as_classes_are_found_however_they_are_written() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="i").parameters["classification"].int64_param = 1
    request.outputs.add(name="plain").parameters["binary_data"].bool_param = True
    request.outputs.add(name="ranked").parameters["classification"].string_param = "3"
    message = request.SerializeToString()
    assert check_inference(message) == {"ranked"}
    parameters = pb.ModelInferRequest.InferRequestedOutputTensor()
    parameters.parameters["classification"].int64_param = 1
    twice = b"\x0a\x01a" + parameters.SerializeToString() + b"\x0a\x01b"  # the last name counts
    assert check_inference(message + b"\x32" + bytes([len(twice)]) + twice) == {"ranked", "b"}


@pytest.mark.parametrize("fields", [b"\x78\x00", b"\x2a\x00", b"\x2a\x02\x18\x01"])
def test_fields_without_number_are_refused_at_once(fields: bytes) -> None:
    read_count = 0

    class Counting(bytes):
        def __getitem__(self, place: Any) -> Any:
            nonlocal read_count
            read_count += 1
            return super().__getitem__(place)

    with pytest.raises(ConfigError, match="more than 16384 fields"):
        check_inference(Counting(fields * 10**6))
    assert read_count < 10**5


def test_sides_without_number_are_refused_at_once() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(shape=[1] * 20_000)
    with pytest.raises(ConfigError, match="more than 16384 fields"):
        check_inference(request.SerializeToString())


def test_mutated_requests_are_read_as_protobuf_reads_them_or_refused() -> None:
    found = Counter(map(compare, mutated(50_000, seed=1)))
    assert min(found["read alike"], found["harmful"], found["refused"]) > 1000, "else nothing was compared"
    assert found["refused here alone"] < 500, "what protobuf takes is refused only where its libraries differ"
