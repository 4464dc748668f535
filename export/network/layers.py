"""Layers whose active part is chosen per call.

A slimmable layer owns the weights of the full width; a narrower width uses the leading slice of them
(Yu et al., "Slimmable Neural Networks", arXiv 1812.08928). Convolutions share their weights between widths, batch
norms do not: each width sees other activations, so each has statistics and an affine part of its own.

The width is an argument of ``forward``. The usual alternative, a mutable attribute set on every module before
a call, makes a network that can't be shared between threads and hides the width from type checkers and tracers.

There are two batch norms. The switchable one keeps an affine part for each width. The shared one keeps one affine
part, of which narrower widths use the leading slice, and only its statistics are of a width (Yu and Huang,
"Universally Slimmable Networks", arXiv 1903.05134, recompute them after training). So it costs less to add a width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from export.width import Width, active_channels, width_key


class PixelNorm(nn.Module):
    """The normalisation of pixels, inside the network; mean and standard deviation of each channel, pixels in 0..1."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 [n, c, h, w] for pixels in 0..1 of the same shape."""
        return (pixels - self.mean) / self.std


class SwitchableBatchNorm2d(nn.Module):
    """One batch norm for each width, over that width's active channels."""

    def __init__(self, channels: int, widths: tuple[Width, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({width_key(w): nn.BatchNorm2d(active_channels(channels, w)) for w in widths})

    def norm(self, width: Width) -> nn.BatchNorm2d:
        """Return the batch norm that belongs to ``width``."""
        norm = self.norms[width_key(width)]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Normalise ``x``, float32 [n, active channels, h, w]."""
        out: torch.Tensor = self.norm(width)(x)
        return out


class SharedBatchNorm2d(nn.Module):
    """One affine part for all widths; statistics for each width, over that width's active channels."""

    def __init__(self, channels: int, widths: tuple[Width, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norms = nn.ModuleDict(
            {width_key(w): nn.BatchNorm2d(active_channels(channels, w), affine=False) for w in widths}
        )

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Normalise ``x``, float32 [n, active channels, h, w]."""
        normal: torch.Tensor = self.norms[width_key(width)](x)
        scale, shift = (part[: x.shape[1], None, None] for part in (self.weight, self.bias))
        return normal * scale + shift


class SlimConvNorm(nn.Module):
    """Convolution without bias, then a batch norm: the unit that export folds into one convolution.

    Args:
        in_channels: Input channels at full width.
        out_channels: Output channels at full width.
        kernel_size: The size of the kernel, odd; the padding keeps the size at stride 1.
        slim_input: False for the first layer, whose input is the image and never slimmed.
        depthwise: Whether each channel has a filter of its own; there are as many output as input channels then.
        norm: What makes the batch norm of the output channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        widths: tuple[Width, ...],
        slim_input: bool = True,
        depthwise: bool = False,
        norm: Callable[[int, tuple[Width, ...]], nn.Module] = SwitchableBatchNorm2d,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.slim_input = slim_input
        self.depthwise = depthwise
        filters = (out_channels, 1 if depthwise else in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(filters))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.norm = norm(out_channels, widths)

    @property
    def padding(self) -> int:
        """Zero padding on each side, in pixels."""
        return self.kernel_size // 2

    def active_weight(self, width: Width) -> torch.Tensor:
        """Return the leading slice used at ``width``, float32 [active out, active in, k, k]; a view.

        A depthwise one has 1 in place of the active inputs.
        """
        active_in = active_channels(self.in_channels, width) if self.slim_input else self.in_channels
        return self.weight[: active_channels(self.out_channels, width), :active_in]

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Return float32 [n, active out, h', w'] for ``x`` float32 [n, active in, h, w]."""
        groups = x.shape[1] if self.depthwise else 1
        weight = self.active_weight(width)
        y = functional.conv2d(x, weight, stride=self.stride, padding=self.padding, groups=groups)
        out: torch.Tensor = self.norm(y, width)
        return out


class SlimLinear(nn.Module):
    """Classifier whose input is slimmed and whose output, the classes, is not."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        full = nn.Linear(in_features, out_features)
        self.weight = full.weight
        self.bias = full.bias

    def active_weight(self, width: Width) -> torch.Tensor:
        """Return the leading columns used at ``width``, float32 [classes, active in]; a view."""
        return self.weight[:, : active_channels(self.in_features, width)]

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``x`` float32 [n, active in]."""
        return functional.linear(x, self.active_weight(width), self.bias)
