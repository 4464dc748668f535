"""Parameters of a model that no JSON writer makes: its own loss, and never that of the models beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.triton.families import Misfit, read_width
from orchestrator.triton.repository import Repository

DAMAGED = [
    ("slim.item", '{"pixels": [1e999]}'),
    ("slim.item", "[" * 100_000),
    ("slim.labels", "[" * 100_000),
    ("slim.fill", "[" * 100_000),
    ("slim.fill", '{"pixels": 1' + "0" * 400 + "}"),
]


def damaged(key: str, value: str) -> ModelConfig:
    config = ModelConfig(name="digits_w050", max_batch_size=8)
    config.input.add(name="pixels", data_type="TYPE_INT32", dims=[4])
    config.output.add(name="logits", data_type="TYPE_FP32", dims=[10])
    config.instance_group.add(count=1, kind="KIND_CPU")
    for name, text in {"slim.family": "digits", "slim.width": "50", "slim.accuracy": "0.9", key: value}.items():
        config.parameters[name].string_value = text
    return config


@pytest.mark.parametrize(("key", "value"), DAMAGED)
def test_a_parameter_that_cant_be_read_makes_a_misfit(key: str, value: str) -> None:
    found = read_width(damaged(key, value), {})
    assert isinstance(found, Misfit)
    assert key in found.reason


@pytest.mark.parametrize(("key", "value"), DAMAGED)
def test_a_repository_leaves_such_a_model_out(tmp_path: Path, key: str, value: str) -> None:
    folders = {"digits_w050": damaged(key, value), "digits_w025": damaged("slim.width", "25")}
    folders["digits_w025"].name = "digits_w025"
    for name, config in folders.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"weights")
        (tmp_path / name / "config.pbtxt").write_text(str(config))
    repository = Repository(tmp_path)
    assert [entry.model.name for entry in repository.entries()] == ["digits_w025"]
    assert key in repository.misfits["digits_w050"]
