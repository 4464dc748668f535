"""Which model a request is for, read off its bytes."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.wire import Address, MalformedMessageError, read_address
from tests.gateway.protocol.strategies import Tensor, names, tensors

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
