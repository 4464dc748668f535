from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.snapshot import TensorSpec
from orchestrator.triton.messages import parse_served_model

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def config(width: int = 25) -> ModelConfig:
    text = (REPOSITORY / f"fashion_w{width:03d}" / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize("width", [25, 50, 75, 100])
def test_an_exported_config_says_all_that_a_router_must_know(width: int) -> None:
    model = parse_served_model(config(width))
    assert model is not None
    assert (model.name, model.family, model.width) == (f"fashion_w{width:03d}", "fashion", width)
    assert (model.max_batch_size, model.instances) == (64, 1)
    assert model.input == TensorSpec("pixels", "FP32", (1, 28, 28))
    assert model.output == TensorSpec("logits", "FP32", (10,))
    assert model.labels[0] == "T-shirt/top"
    assert 0.9 < model.accuracy < 1
    assert model.flops is not None
    assert model.sha256 is not None


def test_what_the_exporter_did_not_say_is_none() -> None:
    plain = config()
    for key in ("slim.flops", "slim.sha256", "slim.labels"):
        del plain.parameters[key]
    model = parse_served_model(plain)
    assert model is not None
    assert (model.flops, model.sha256, model.labels) == (None, None, ())


def test_other_models_are_passed_over() -> None:
    def broken(key: str, value: str | None) -> ModelConfig:
        changed = config()
        if value is None:
            del changed.parameters[key]
        else:
            changed.parameters[key].string_value = value
        return changed

    assert parse_served_model(ModelConfig(name="other")) is None
    for key, value in [
        ("slim.family", None),
        ("slim.width", None),
        ("slim.width", "a quarter"),
        ("slim.width", "0"),
        ("slim.width", "101"),
        ("slim.accuracy", None),
        ("slim.labels", "{}"),
        ("slim.labels", "["),
    ]:
        assert parse_served_model(broken(key, value)) is None
    unbatched, two_inputs, unknown_type = config(), config(), config()
    unbatched.max_batch_size = 0
    two_inputs.input.add(name="more")
    unknown_type.input[0].data_type = 99
    assert [parse_served_model(c) for c in (unbatched, two_inputs, unknown_type)] == [None] * 3
