"""SlimMobileNetV2: inverted residuals with depthwise convolutions, at several widths.

At full width it is MobileNetV2 (Sandler et al., arXiv 1801.04381) layer by layer, so that pretrained weights fit; but
for dropout, which a network of several widths does without. Its stem is for images of some 224×224 pixels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from export.network.channels import ChannelGroup
from export.network.layers import PixelNorm, SlimConvNorm, SlimLinear
from export.network.protocol import Task
from export.width import Width

STEM_CHANNELS = 32
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks, and stride of the first block, as in table 2 of the paper."""
HEAD_CHANNELS = 1280


class SlimInvertedResidual(nn.Module):
    """Expand by 1×1, filter each channel by 3×3, project by 1×1 without an activation; a sum where shapes allow."""

    def __init__(self, in_channels: int, out: int, *, expansion: int, stride: int, widths: tuple[Width, ...]) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = (
            SlimConvNorm(in_channels, inner, kernel_size=1, stride=1, widths=widths) if expansion > 1 else None
        )
        self.filter = SlimConvNorm(inner, inner, kernel_size=3, stride=stride, widths=widths, depthwise=True)
        self.project = SlimConvNorm(inner, out, kernel_size=1, stride=1, widths=widths)
        self.is_residual = stride == 1 and in_channels == out

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Return float32 [n, active out, h / stride, w / stride]."""
        y = x if self.expand is None else functional.relu6(self.expand(x, width))
        y = functional.relu6(self.filter(y, width))
        projected: torch.Tensor = self.project(y, width)
        return x + projected if self.is_residual else projected


class SlimMobileNetV2(nn.Module):
    """MobileNetV2 with shared weights for all its widths, each with batch norms of its own."""

    def __init__(self, widths: tuple[Width, ...], task: Task) -> None:
        super().__init__()
        self.normalise = PixelNorm(task.mean, task.std)
        self.stem = SlimConvNorm(
            len(task.mean), STEM_CHANNELS, kernel_size=3, stride=2, widths=widths, slim_input=False
        )
        blocks = []
        channels = STEM_CHANNELS
        for expansion, out, count, stride in STAGES:
            for index in range(count):
                first_stride = stride if index == 0 else 1
                blocks.append(
                    SlimInvertedResidual(channels, out, expansion=expansion, stride=first_stride, widths=widths)
                )
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = SlimConvNorm(channels, HEAD_CHANNELS, kernel_size=1, stride=1, widths=widths)
        self.classifier = SlimLinear(HEAD_CHANNELS, task.classes)

    def channel_groups(self) -> list[ChannelGroup]:
        """Return the expanded channels of each block, and the channels that runs of blocks sum into."""
        groups = []
        stream = ChannelGroup([self.stem], [])
        for block in self.blocks:
            assert isinstance(block, SlimInvertedResidual)
            if block.expand is None:  # the depthwise convolution keeps the channels of the stream
                stream.makers.append(block.filter)
                stream.takers.append(block.project)
            else:
                groups.append(ChannelGroup([block.expand, block.filter], [block.project]))
                stream.takers.append(block.expand)
            if not block.is_residual:
                groups.append(stream)
                stream = ChannelGroup([], [])
            stream.makers.append(block.project)
        stream.takers.append(self.head)
        return [*groups, stream, ChannelGroup([self.head], [self.classifier])]

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``pixels`` float32 [n, c, h, w] in 0..1."""
        x = functional.relu6(self.stem(self.normalise(pixels), width))
        for block in self.blocks:
            x = block(x, width)
        x = functional.relu6(self.head(x, width))
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)), width)
        return logits
