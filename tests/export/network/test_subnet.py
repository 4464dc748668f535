from __future__ import annotations

import pytest
import torch

from export.network.subnet import cut_subnet, flops_per_image
from export.width import Width
from tests.export.toys import SIDE, WIDTHS, lively_network


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["slimresnet-tiny", "slimresnet20", "slimresnet18"])
def test_the_cut_network_equals_the_slimmable_one(name: str, width: Width) -> None:
    network = lively_network(name, channels=3)
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        torch.testing.assert_close(cut_subnet(network, width)(pixels), network(pixels, width), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [Width(25), Width(100)])
def test_bottlenecks_and_the_imagenet_stem_are_cut_too(width: Width) -> None:
    network = lively_network("slimresnet50", channels=3)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(cut_subnet(network, width)(pixels), network(pixels, width), atol=1e-5, rtol=1e-5)


def test_tensors_are_contiguous_copies_of_exactly_the_slices() -> None:
    network = lively_network()
    subnet = cut_subnet(network, Width(25))
    assert subnet.stem.weight.shape == (4, 1, 3, 3)
    assert subnet.classifier.weight.shape == (3, 16)
    shared = {p.untyped_storage().data_ptr() for p in network.parameters()}
    for tensor in (*subnet.parameters(), *subnet.buffers()):
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
        assert tensor.untyped_storage().data_ptr() not in shared
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in subnet.modules())


def test_a_convolution_counts_two_operations_a_multiply_add() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert flops_per_image(conv, (3, 5, 5)) == 2 * 5 * 5 * 8 * 3 * 9


def test_narrower_widths_take_fewer_operations() -> None:
    network = lively_network()
    flops = [flops_per_image(cut_subnet(network, width), (1, SIDE, SIDE)) for width in WIDTHS]
    assert flops == sorted(set(flops))
    assert flops[0] < flops[-1] / 10
