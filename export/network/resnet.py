"""SlimResNet: residual networks that run at several widths.

Four named sizes. All follow He et al. (arXiv 1512.03385) with projection shortcuts; the CIFAR-like ones have a
3×3 stem at full resolution, ``slimresnet50`` has the ImageNet stem (7×7, stride 2, max pool).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from export.network.channels import ChannelGroup
from export.network.layers import PixelNorm, SlimConvNorm, SlimLinear
from export.network.protocol import Task
from export.width import Width


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a SlimResNet at full width.

    Attributes:
        name: The name as given to ``--model``.
        stage_channels: Inner channels of the blocks of each stage; every stage after the first halves the size.
        blocks_per_stage: Residual blocks in each stage.
        expansion: Output channels of a block over its inner channels; above 1 the block is a bottleneck.
        imagenet_stem: 7×7 stride-2 stem and max pool instead of a 3×3 stride-1 stem.
    """

    name: str
    stem_channels: int
    stage_channels: tuple[int, ...]
    blocks_per_stage: tuple[int, ...]
    expansion: int = 1
    imagenet_stem: bool = False


ARCHITECTURES = {
    a.name: a
    for a in (
        # 28×28 or 32×32 images. Channels are multiples of 4 at 25 % and 75 %, of 8 at 50 % and 100 %.
        Architecture("slimresnet-tiny", 16, (16, 32, 64), (2, 2, 2)),
        # The CIFAR ResNet-20. Channels are multiples of 4 at 25 % and 75 %, of 8 at 50 % and 100 %.
        Architecture("slimresnet20", 16, (16, 32, 64), (3, 3, 3)),
        # ResNet-18 with a CIFAR stem. Channels are multiples of 16 at 25 %, 50 %, 75 % and 100 %.
        Architecture("slimresnet18", 64, (64, 128, 256, 512), (2, 2, 2, 2)),
        # ResNet-50 for 224×224 images. Channels are multiples of 16 at 25 %, 50 %, 75 % and 100 %.
        Architecture("slimresnet50", 64, (64, 128, 256, 512), (3, 4, 6, 3), expansion=4, imagenet_stem=True),
    )
}
"""The named sizes. Channels are multiples of 4 at every width. Aligned to 8, what tensor cores and AVX like best, are
50 % and 100 % of ``slimresnet-tiny`` and ``slimresnet20``, and 25 %, 50 %, 75 % and 100 % of ``slimresnet18`` and
``slimresnet50`` (there even to 16)."""


class SlimBlock(nn.Module):
    """Residual block: two 3×3 units, or 1×1, 3×3, 1×1 when the architecture expands."""

    def __init__(self, in_channels: int, inner: int, *, expansion: int, stride: int, widths: tuple[Width, ...]) -> None:
        super().__init__()
        out = inner * expansion

        def unit(i: int, o: int, kernel_size: int, stride: int) -> SlimConvNorm:
            return SlimConvNorm(i, o, kernel_size=kernel_size, stride=stride, widths=widths)

        if expansion == 1:
            units = [unit(in_channels, inner, 3, stride), unit(inner, out, 3, 1)]
        else:
            units = [unit(in_channels, inner, 1, 1), unit(inner, inner, 3, stride), unit(inner, out, 1, 1)]
        self.units = nn.ModuleList(units)
        self.shortcut = unit(in_channels, out, 1, stride) if stride != 1 or in_channels != out else None

    def forward(self, x: torch.Tensor, width: Width) -> torch.Tensor:
        """Return float32 [n, active out, h / stride, w / stride]."""
        y = x
        for index, unit in enumerate(self.units):
            y = unit(y, width)
            if index < len(self.units) - 1:
                y = functional.relu(y)
        shortcut = x if self.shortcut is None else self.shortcut(x, width)
        return functional.relu(y + shortcut)


class SlimResNet(nn.Module):
    """A residual network with shared weights for all its widths, each with batch norms of its own."""

    def __init__(self, architecture: Architecture, widths: tuple[Width, ...], task: Task) -> None:
        super().__init__()
        self.architecture = architecture
        self.normalise = PixelNorm(task.mean, task.std)
        self.stem = SlimConvNorm(
            len(task.mean),
            architecture.stem_channels,
            kernel_size=7 if architecture.imagenet_stem else 3,
            stride=2 if architecture.imagenet_stem else 1,
            widths=widths,
            slim_input=False,
        )
        blocks: list[SlimBlock] = []
        channels = architecture.stem_channels
        for stage, (inner, count) in enumerate(
            zip(architecture.stage_channels, architecture.blocks_per_stage, strict=True)
        ):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    SlimBlock(channels, inner, expansion=architecture.expansion, stride=stride, widths=widths)
                )
                channels = inner * architecture.expansion
        self.blocks = nn.ModuleList(blocks)
        self.classifier = SlimLinear(channels, task.classes)

    def channel_groups(self) -> list[ChannelGroup]:
        """Return the inner channels of each block, and the channels that runs of blocks sum into."""
        groups = []
        stream = ChannelGroup([self.stem], [])
        for block in self.blocks:
            assert isinstance(block, SlimBlock)
            first, *_, last = units = [unit for unit in block.units if isinstance(unit, SlimConvNorm)]
            groups += [ChannelGroup([maker], [taker]) for maker, taker in pairwise(units)]
            stream.takers.append(first)
            if block.shortcut is not None:
                stream.takers.append(block.shortcut)
                groups.append(stream)
                stream = ChannelGroup([block.shortcut], [])
            stream.makers.append(last)
        stream.takers.append(self.classifier)
        return [*groups, stream]

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``pixels`` float32 [n, c, h, w] in 0..1."""
        x = functional.relu(self.stem(self.normalise(pixels), width))
        if self.architecture.imagenet_stem:
            x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x, width)
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)), width)
        return logits
