from __future__ import annotations

import pytest
import torch

from export.network.resnet import ARCHITECTURES
from export.width import Width
from tests.export.toys import WIDTHS, lively_network


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_size_runs_at_every_width(name: str) -> None:
    network = lively_network(name, channels=3, classes=7)
    pixels = torch.rand(2, 3, 33, 33)
    with torch.inference_mode():
        outputs = [network(pixels, width) for width in WIDTHS]
    assert {tuple(o.shape) for o in outputs} == {(2, 7)}
    assert not torch.allclose(outputs[0], outputs[-1])


def test_the_fashion_size_takes_28_and_32_pixels() -> None:
    network = lively_network()
    for side in (28, 32):
        assert network(torch.rand(1, 1, side, side), Width(25)).shape == (1, 3)


def test_the_image_is_normalised_inside() -> None:
    network = lively_network()
    seen = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 1, 8, 8), 0.7), Width(25))
    torch.testing.assert_close(seen[0], torch.full((1, 1, 8, 8), (0.7 - 0.4) / 0.3))
