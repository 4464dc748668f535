from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError
from export.repository.model_config import (
    Device,
    Identity,
    Tuning,
    model_name,
    parse_config,
    read_header,
    read_identity,
    read_tuning,
    render_config,
    to_protobuf,
)
from export.width import Width

DATA = Path(__file__).parent / "data"
FASHION = Identity(
    family="fashion",
    width=Width(25),
    shape=(1, 28, 28),
    labels=("T-shirt/top", "Trouser", 'Größe "L"'),
    accuracy=0.905,
    flops=2_565_568,
    sha256="0123456789abcdef" * 4,
)
GOLDEN = {
    "fashion_cpu.pbtxt": Tuning(),
    "fashion_gpu.pbtxt": Tuning(Device.GPU, max_batch_size=32, instance_count=2, max_queue_delay_us=500),
}

identities = st.builds(
    Identity,
    family=st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True),
    width=st.integers(1, 100).map(Width),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 512), st.integers(1, 512)),
    labels=st.lists(st.text(max_size=8), min_size=1, max_size=5).map(tuple),
    accuracy=st.integers(0, 10_000).map(lambda n: n / 10_000),
    flops=st.integers(0, 10**12),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
tunings = st.builds(
    Tuning,
    device=st.sampled_from(Device),
    max_batch_size=st.integers(1, 512),
    instance_count=st.integers(1, 16),
    max_queue_delay_us=st.integers(0, 10**6),
)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_equals_the_golden_file(name: str) -> None:
    assert render_config(FASHION, GOLDEN[name]) == (DATA / name).read_text()


@given(identities, tunings)
def test_what_is_rendered_is_read_back(identity: Identity, tuning: Tuning) -> None:
    text = render_config(identity, tuning)
    config = parse_config(text)
    assert config == to_protobuf(identity, tuning)
    assert read_identity(config) == identity
    assert read_tuning(config) == tuning
    assert read_header(text) == (tuning, identity.fingerprint())


def test_cpu_and_gpu_differ_where_triton_wants_it() -> None:
    cpu, gpu = to_protobuf(FASHION, Tuning(intra_op_threads=2)), to_protobuf(FASHION, Tuning(Device.GPU))
    assert cpu.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert cpu.parameters["intra_op_thread_count"].string_value == "2"
    assert [warmup.batch_size for warmup in cpu.model_warmup] == [1, 64]
    assert gpu.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(gpu.instance_group[0].gpus) == [0]
    assert [warmup.batch_size for warmup in gpu.model_warmup] == [1, 64]
    assert "intra_op_thread_count" not in gpu.parameters
    assert gpu.parameters["cudnn_conv_algo_search"].string_value == "1"


@pytest.mark.parametrize("device", Device)
def test_what_hurts_triton_is_left_out(device: Device) -> None:
    config = to_protobuf(FASHION, Tuning(device))
    assert config.runtime == ""
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert not config.dynamic_batching.preferred_batch_size
    assert config.HasField("dynamic_batching")
    assert all(value.string_value for value in config.parameters.values())


@pytest.mark.parametrize(
    "change", [{"accuracy": 0.9051}, {"flops": 1}, {"sha256": "0" * 64}, {"labels": ("a",)}, {"width": Width(50)}]
)
def test_the_fingerprint_covers_every_value(change: dict[str, object]) -> None:
    assert replace(FASHION, **change).fingerprint() != FASHION.fingerprint()  # type: ignore[arg-type]


def test_names_hold_family_and_width() -> None:
    assert model_name("fashion", Width(5)) == "fashion_w005"


@pytest.mark.parametrize("family", ["", "Fashion", "9lives", "a b", "../up", "a/b", "ü", "a\n"])
def test_a_family_name_that_is_no_folder_or_metric_label_is_refused(family: str) -> None:
    with pytest.raises(RepositoryError, match="--family"):
        model_name(family, Width(25))


@pytest.mark.parametrize(
    "tuning",
    [Tuning(max_batch_size=0), Tuning(instance_count=0), Tuning(intra_op_threads=0), Tuning(max_queue_delay_us=-1)],
)
def test_tuning_out_of_range_is_refused(tuning: Tuning) -> None:
    with pytest.raises(RepositoryError, match=r"give [01] to \d+"):
        render_config(FASHION, tuning)


@pytest.mark.parametrize("text", ["name: ", "nonsense: 1", 'max_batch_size: "many"', "{"])
def test_text_that_triton_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(RepositoryError, match="not a Triton model configuration") as caught:
        parse_config(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('key: "slim.sha256"', 'key: "other"', r"the parameter slim\.sha256 is missing"),
        ('string_value: "25"', 'string_value: "wide"', "makes no sense"),
        ('string_value: "2565568"', 'string_value: ""', "makes no sense"),
        ("  dims: 28\n", "", "makes no sense"),
    ],
)
def test_a_description_that_is_damaged_is_refused(old: str, new: str, message: str) -> None:
    text = render_config(FASHION, Tuning())
    assert old in text
    with pytest.raises(RepositoryError, match=message):
        read_identity(parse_config(text.replace(old, new)))


def test_a_lost_header_is_recognised() -> None:
    text = render_config(FASHION, Tuning())
    assert read_header("\n".join(text.splitlines()[3:])) is None
    assert read_header(text.replace("--instances 1", "--instances many")) is None
