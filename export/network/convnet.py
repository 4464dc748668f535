"""A slimmable ConvNet for images of 28×28 pixels, small enough to be read as a whole.

Three convolutions halve the image to 4×4; each is followed by a batch norm and ReLU. The mean over what is left goes
through a linear classifier. Every layer gets the width and uses the leading part of its weights. Batch norms share
one affine part; only their statistics are kept for each width, and recomputed when the training ends.

It is the pattern for a network of one's own; see docs/tutorials/own-network.md.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from export.network.channels import ChannelGroup
from export.network.layers import PixelNorm, SharedBatchNorm2d, SlimConvNorm, SlimLinear
from export.network.protocol import Task
from export.width import Width

CHANNELS = (32, 64, 128)


class SlimConvNet(nn.Module):
    """Three convolutions and a classifier, at any of the widths."""

    def __init__(self, widths: tuple[Width, ...], task: Task) -> None:
        super().__init__()
        self.normalise = PixelNorm(task.mean, task.std)
        self.first = SlimConvNorm(
            len(task.mean),
            CHANNELS[0],
            kernel_size=3,
            stride=2,
            widths=widths,
            slim_input=False,  # the image has its channels at every width
            norm=SharedBatchNorm2d,
        )
        self.others = nn.ModuleList(
            SlimConvNorm(before, after, kernel_size=3, stride=2, widths=widths, norm=SharedBatchNorm2d)
            for before, after in pairwise(CHANNELS)
        )
        self.classifier = SlimLinear(CHANNELS[-1], task.classes)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``pixels`` float32 [n, c, h, w] in 0..1."""
        x = functional.relu(self.first(self.normalise(pixels), width))
        for layer in self.others:
            x = functional.relu(layer(x, width))
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)), width)
        return logits

    def channel_groups(self) -> list[ChannelGroup]:
        """Return the channels between layers: nothing is added, so each layer and the next are a group."""
        makers = [self.first, *(layer for layer in self.others if isinstance(layer, SlimConvNorm))]
        takers: list[SlimConvNorm | SlimLinear] = [*makers[1:], self.classifier]
        return [ChannelGroup([maker], [taker]) for maker, taker in zip(makers, takers, strict=True)]
