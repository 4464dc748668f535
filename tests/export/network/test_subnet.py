from __future__ import annotations

import pytest
import torch
from torch import nn, ops
from torch.nn import functional

from export.errors import NetworkError
from export.network.factories import make_network
from export.network.subnet import cut_subnet, flops_per_image
from export.width import Width
from tests.export.toys import SIDE, WIDTHS, enliven, lively_network, toy_task


def assert_cut_equals(network: nn.Module, width: Width, pixels: torch.Tensor) -> None:
    channels, height, wide = pixels.shape[1:]
    subnet = cut_subnet(network, width, (channels, height, wide))
    with torch.inference_mode():
        torch.testing.assert_close(subnet(pixels), network(pixels, width), atol=1e-5, rtol=1e-5)
    assert not {node.target for node in subnet.graph.nodes} & {ops.aten.batch_norm.default, ops.aten.slice.Tensor}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["slimresnet-tiny", "slimresnet20", "slimresnet18"])
def test_the_cut_network_equals_the_slimmable_one(name: str, width: Width) -> None:
    assert_cut_equals(lively_network(name, channels=3), width, torch.rand(3, 3, SIDE, SIDE))


@pytest.mark.parametrize("width", [Width(25), Width(100)])
def test_bottlenecks_and_the_imagenet_stem_are_cut_too(width: Width) -> None:
    assert_cut_equals(lively_network("slimresnet50", channels=3), width, torch.rand(3, 3, 64, 64))


@pytest.mark.parametrize("name", ["slimconvnet", "slimmobilenet-v2"])
def test_shared_norms_and_depthwise_convolutions_are_cut_too(name: str) -> None:
    network = make_network(name, WIDTHS, toy_task(3, side=32)).eval()
    enliven(network)
    assert_cut_equals(network, Width(25), torch.rand(3, 3, 32, 32))


class Odd(nn.Module):
    """What can't be folded: a norm before its convolution, one whose input two use, a slice of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.BatchNorm2d(1), nn.BatchNorm2d(4)
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv1d(4, 8, 3)
        self.last = nn.Linear(8, 3, bias=False)
        enliven(self)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        x = self.first(self.before(pixels))
        x = self.between(x) * 2 + x
        half = x[:, :, : x.shape[2] // 2].mean(dim=2)
        y = self.second(half) * self.last.weight[0][:, None]
        return functional.linear(y.mean(dim=2), self.last.weight) + width / 100


def test_what_can_not_be_folded_stays_and_computes_the_same() -> None:
    network = Odd().eval()
    pixels = torch.rand(3, 1, SIDE, SIDE)
    with torch.inference_mode():
        subnet = cut_subnet(network, Width(50), (1, SIDE, SIDE))
        torch.testing.assert_close(subnet(pixels), network(pixels, Width(50)), atol=1e-5, rtol=1e-5)


class InPlace(nn.Module):
    """As residual networks are often written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        enliven(self)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(pixels)))
        x += pixels
        x.mul_(2)
        return self.relu(x).mean(dim=(2, 3))


def test_what_is_done_in_place_is_kept() -> None:
    assert_cut_equals(InPlace().eval(), Width(100), torch.rand(3, 3, SIDE, SIDE))


class Sequence(nn.Module):
    """A norm over dimension 1 behind a linear layer over dimension 2, both of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(SIDE, 3), nn.BatchNorm1d(3)
        enliven(self)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        return self.norm(self.linear(pixels.mean(dim=2))).mean(dim=2)


def test_a_norm_over_other_channels_than_a_layer_makes_is_not_folded() -> None:
    network, pixels = Sequence().eval(), torch.rand(3, 3, SIDE, SIDE)
    with torch.inference_mode():
        subnet = cut_subnet(network, Width(100), (3, SIDE, SIDE))
        torch.testing.assert_close(subnet(pixels), network(pixels, Width(100)), atol=1e-5, rtol=1e-5)


class Branching(nn.Module):
    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        return pixels.mean(dim=(2, 3)) if pixels.sum() > 0 else pixels.amax(dim=(2, 3))


def test_a_network_that_can_not_be_traced_is_told() -> None:
    with pytest.raises(NetworkError, match=r"width 0\.25 can't be traced by torch\.export .*; let forward be free"):
        cut_subnet(Branching(), Width(25), (3, SIDE, SIDE))


def test_tensors_are_contiguous_copies_of_exactly_the_slices() -> None:
    network = lively_network()
    subnet = cut_subnet(network, Width(25), (1, SIDE, SIDE))
    shapes = [tuple(tensor.shape) for tensor in subnet.parameters()]
    assert {(4, 1, 3, 3), (16, 8, 3, 3), (3, 16), (3,)} <= set(shapes)
    assert len(shapes) == 2 * (15 + 1)
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
    flops = [flops_per_image(cut_subnet(network, width, (1, SIDE, SIDE)), (1, SIDE, SIDE)) for width in WIDTHS]
    assert flops == sorted(set(flops))
    assert flops[0] < flops[-1] / 10
