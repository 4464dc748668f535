from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from export.network.protocol import Switched
from export.network.subnet import cut_subnet
from export.onnx.graph import check_graph, export_onnx
from export.onnx.parity import check_parity
from export.width import Width
from tests.export.toys import SIDE, enliven, toy_task

TASK = toy_task()
FLAGS = SimpleNamespace(width_mult=1.0)
RATIOS = [0.25, 1.0]


class Layer(nn.Module):
    """A convolution and a norm that look for their width in an attribute of their own or in a global one."""

    def __init__(self, before: int, after: int, *, of: object | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3) * 0.2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(int(after * ratio)) for ratio in RATIOS)
        self.width_mult = 1.0
        self.of = of  # None for the layer itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ratio: float = (self if self.of is None else self.of).width_mult  # type: ignore[attr-defined]
        weight = self.weight[: int(len(self.weight) * ratio), : x.shape[1]]
        return functional.relu(self.norms[RATIOS.index(ratio)](functional.conv2d(x, weight)))


class Public(nn.Module):
    """A network as it is published: no width in its call."""

    def __init__(self, of: object | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(Layer(1, 16, of=of), Layer(16, 32, of=of))
        self.classifier = nn.Linear(32, TASK.classes)

    def set_width(self, ratio: float) -> None:
        self.apply(lambda module: setattr(module, "width_mult", ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x).mean(dim=(2, 3))
        return functional.linear(y, self.classifier.weight[:, : y.shape[1]], self.classifier.bias)


def by_method() -> Switched:
    network = Public()
    return Switched(network, network.set_width, TASK)


def by_global_attribute() -> Switched:
    return Switched(Public(of=FLAGS), lambda ratio: setattr(FLAGS, "width_mult", ratio), TASK)


@pytest.mark.parametrize("make", [by_method, by_global_attribute])
@pytest.mark.parametrize("width", [Width(25), Width(100)])
def test_a_network_that_is_switched_is_exported_with_the_same_proof(make: Any, width: Width) -> None:
    network: Switched = make()
    enliven(network)
    network.eval()
    model = export_onnx(cut_subnet(network, width, TASK.shape), TASK.shape)
    network(torch.rand(1, *TASK.shape), Width(100 if width == 25 else 25))  # whatever was used last
    check_graph(network, width, model, TASK.shape)
    assert check_parity(network, width, model, torch.rand(32, 1, SIDE, SIDE)) < 1e-4


def test_the_state_dict_of_a_switched_network_is_its_own() -> None:
    network = Public()
    assert Switched(network, network.set_width, TASK).state_dict().keys() == network.state_dict().keys()
    by_method().load_state_dict(network.state_dict())
