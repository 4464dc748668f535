"""One width of a slimmable network, cut out as an ordinary module.

The cut network has no notion of width: its tensors are contiguous copies of exactly the active slices, and every
batch norm is folded into the convolution before it (weights scaled, a bias added), computed in float64 so that
folding costs no accuracy of its own.

The pixel normalisation stays two explicit operations. Folding it into the stem as well would be wrong at the
border: the stem pads the *normalised* image with zeros, and a folded stem would pad the raw pixels with zeros,
which stand for ``-mean / std``. Two element-wise operations on the image are cheap; an inexact border is not.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from export.network.layers import SlimConvNorm
from export.network.resnet import SlimBlock, SlimResNet
from export.width import Width


class ResidualBlock(nn.Module):
    """Plain residual block: convolutions with ReLU between them, a shortcut, ReLU after the sum."""

    def __init__(self, convs: list[nn.Conv2d], shortcut: nn.Conv2d | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, out, h', w'] for ``x`` float32 [n, in, h, w]."""
        y = x
        for index, conv in enumerate(self.convs):
            y = conv(y)
            if index < len(self.convs) - 1:
                y = functional.relu(y)
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Subnet(nn.Module):
    """What ``cut_subnet`` returns: a residual network of one fixed width.

    Args:
        mean: The mean of each channel, float32 [1, c, 1, 1].
        std: The standard deviation of each channel, float32 [1, c, 1, 1].
        pooled_stem: Whether a 3×3 stride-2 max pool follows the first convolution.
        classifier: The classifier on the spatial mean.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: torch.Tensor,
        std: torch.Tensor,
        *,
        stem: nn.Conv2d,
        pooled_stem: bool,
        blocks: list[ResidualBlock],
        classifier: nn.Linear,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.stem = stem
        self.pooled_stem = pooled_stem
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``pixels`` float32 [n, c, h, w] in 0..1."""
        x = functional.relu(self.stem((pixels - self.mean) / self.std))
        if self.pooled_stem:
            x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def cut_subnet(network: SlimResNet, width: Width) -> Subnet:
    """Return ``network`` at ``width`` as a plain module on the CPU, in evaluation mode, sharing no memory with it."""
    subnet = Subnet(
        _copy(network.mean),
        _copy(network.std),
        stem=_fold(network.stem, width),
        pooled_stem=network.architecture.imagenet_stem,
        blocks=[_cut_block(block, width) for block in network.blocks if isinstance(block, SlimBlock)],
        classifier=_linear(network.classifier.active_weight(width), network.classifier.bias),
    )
    return subnet.eval().requires_grad_(False)


def flops_per_image(subnet: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of one image of ``shape`` (c, h, w).

    A multiply-add counts as two, and only convolutions and matrix products count, as PyTorch's own counter does it:
    biases, ReLU, pooling and sums are left out.
    """
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        subnet(torch.zeros(1, *shape))
    return int(counter.get_total_flops())


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _fold(unit: SlimConvNorm, width: Width) -> nn.Conv2d:
    """Return one convolution equal to ``unit``: gamma · (w * x − mean) / sqrt(var + eps) + beta."""
    norm = unit.norm.norm(width)
    assert norm.running_mean is not None and norm.running_var is not None
    weight = unit.active_weight(width).detach().cpu().double()
    scale = norm.weight.detach().cpu().double() / torch.sqrt(norm.running_var.cpu().double() + norm.eps)
    bias = norm.bias.detach().cpu().double() - norm.running_mean.cpu().double() * scale
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], unit.kernel_size, stride=unit.stride, padding=unit.padding)
    conv.weight = nn.Parameter(_copy(weight * scale[:, None, None, None]))
    assert conv.bias is not None
    conv.bias = nn.Parameter(_copy(bias))
    return conv


def _cut_block(block: SlimBlock, width: Width) -> ResidualBlock:
    units = [unit for unit in block.units if isinstance(unit, SlimConvNorm)]
    return ResidualBlock(
        [_fold(unit, width) for unit in units],
        None if block.shortcut is None else _fold(block.shortcut, width),
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(_copy(weight))
    linear.bias = nn.Parameter(_copy(bias))
    return linear
