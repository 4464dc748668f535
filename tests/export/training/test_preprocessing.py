"""What a family says of images makes of a file the very pixels that its network was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.repository.model_config import Identity, Tuning, read_identity, render_config, to_protobuf
from export.training.datasets import ImageSpec, load_images
from export.width import Width
from orchestrator.images import read_image
from orchestrator.snapshot import ServedModel, TensorSpec
from orchestrator.triton.families import read_width

IDENTITY = Identity("shapes", Width(50), (3, 28, 28), ("a", "b"), 0.9, 1000, "0" * 64)


def spec_of(name: str) -> ImageSpec:
    return ImageSpec(name, 3, 28, 28, (0.5,) * 3, (0.25,) * 3, ("a", "b"))


def served(identity: Identity) -> ServedModel:
    model = read_width(to_protobuf(identity, Tuning()), {})
    assert isinstance(model, ServedModel)
    return model


@pytest.mark.parametrize("size", [(45, 32), (32, 45), (99, 64), (33, 33), (641, 480)])
def test_a_file_becomes_what_the_network_was_trained_on(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for label in ("a", "b"):
        (tmp_path / "val" / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "val" / label / "0.png")
    images = load_images("imagefolder", tmp_path, train=False, image_size=28)
    trained, _ = images.batch(torch.tensor([0]))
    said = replace(IDENTITY, preprocessing=json.dumps(images.spec.preprocessing))
    found = read_image(tmp_path / "val/a/0.png", TensorSpec("pixels", "FP32", (3, 28, 28)), served(said).preprocessing)
    assert np.array_equal(found, trained[0].numpy().astype(np.float32) * np.float32(1 / 255))


def test_what_is_said_of_images_is_part_of_a_model_and_is_read_again() -> None:
    said = replace(IDENTITY, preprocessing=json.dumps(spec_of("cifar10").preprocessing))
    assert read_identity(to_protobuf(said, Tuning())) == said
    assert said.fingerprint() != IDENTITY.fingerprint()
    assert "slim.preprocessing" in render_config(said, Tuning())
    assert "slim.preprocessing" not in render_config(IDENTITY, Tuning())


def test_nothing_is_said_of_images_that_come_as_they_are() -> None:
    assert spec_of("fashion-mnist").preprocessing == {}
    assert served(IDENTITY).preprocessing is None
