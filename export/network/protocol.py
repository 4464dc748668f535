"""What a slimmable network is to training and export, and an adapter for networks that are switched.

A network is a ``torch.nn.Module`` whose ``forward(pixels, width)`` takes float32 [n, c, h, w] in 0..1 and a width in
whole percent, and returns logits float32 [n, classes]. Its pixel normalisation is inside, so the constants exist
once, in training, in the parity check and in the exported graph alike, and no client needs to know them. A factory
makes it: a function of the widths and a ``Task``. The built-in networks are made in the same way.

A network may have ``channel_groups()`` besides; then ``--init`` can sort its channels (``channels``).

Public slimmable networks often have no such argument: they are switched by a method or by an attribute, of every
module or of a global, before each call. ``Switched`` makes one of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from export.network.layers import PixelNorm
from export.width import Width


@dataclass(frozen=True, slots=True)
class Task:
    """What a network is made for.

    Attributes:
        classes: The number of classes.
        shape: The channels, height and width of an image.
        mean: The mean of each channel, pixels in 0..1.
        std: The standard deviation of each channel, pixels in 0..1.
    """

    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


SlimmableNetwork = nn.Module
"""A module whose ``forward`` takes pixels and a width; types can't say it, ``factories`` tries it."""


class Factory(Protocol):
    """What makes a network; each call makes one with weights of its own."""

    def __call__(self, widths: tuple[Width, ...], task: Task) -> SlimmableNetwork:
        """Return a network for these widths, in whole percent and ascending."""


class AtWidth(nn.Module):
    """A slimmable network held at one width: float32 [n, c, h, w] to float32 [n, classes]."""

    def __init__(self, network: SlimmableNetwork, width: Width) -> None:
        super().__init__()
        self.network = network
        self.width = width

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch."""
        logits: torch.Tensor = self.network(pixels, self.width)
        return logits


class Switched(nn.Module):
    """A network of one's own that is switched to a width ratio before it is called.

    Its state dict is that of the network inside. As whatever is switched, it is for one thread at a time.

    Args:
        network: A module that takes normalised pixels and nothing else.
        switch: Called with the ratio, such as 0.25, before each call of the network. ``network.set_width`` where there
            is such a method; ``lambda ratio: setattr(FLAGS, "width_mult", ratio)`` for a global attribute.
        task: Its mean and standard deviation normalise the pixels.
    """

    def __init__(self, network: nn.Module, switch: Callable[[float], object], task: Task) -> None:
        super().__init__()
        self.network = network
        self.switch = switch
        self.normalise = PixelNorm(task.mean, task.std)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        """Return logits float32 [n, classes] for ``pixels`` float32 [n, c, h, w] in 0..1."""
        self.switch(width / 100)
        logits: torch.Tensor = self.network(self.normalise(pixels))
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state dict of the network inside."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict of the network inside."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)
