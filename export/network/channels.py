"""Channels in the order of their importance, so that narrow widths keep what matters most of a trained network.

A width uses the leading channels of every layer. In a network that was trained at full width alone they are no more
important than the others, so before it learns its widths they are sorted. The importance of a channel is the L1 norm
of the filters that make it, each scaled as its batch norm will: ``sum |w| · |gamma| / sqrt(var + eps)``. Without the
batch norm's part the norm of a filter would say nothing, because batch norm undoes any scale.

Layers that are connected share one order: those whose outputs are added, and those that take them. Such a set is a
group, and its importances are summed over all layers that make its channels. What the network computes at full
width does not change.

Hao Li et al., "Pruning Filters for Efficient ConvNets" (arXiv 1608.08710) sort by the L1 norm of filters; Cai et al.,
"Once-for-All" (arXiv 1908.09791) sort before they shrink widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from export.network.layers import SlimConvNorm, SlimLinear


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Layers that share one order of channels.

    Attributes:
        makers: Their outputs are the channels; a depthwise layer among them is sorted as a whole.
        takers: Their inputs are the channels.
    """

    makers: list[SlimConvNorm]
    takers: list[SlimConvNorm | SlimLinear]


def sort_channels(groups: list[ChannelGroup]) -> None:
    """Sort, in place, a network that has one width, the full one: the most important channels first."""
    with torch.no_grad():
        for group in groups:
            order = torch.stack([_importance(m) for m in group.makers]).sum(dim=0).argsort(descending=True, stable=True)
            for maker in group.makers:
                for tensor in (maker.weight, *maker.norm.parameters(), *maker.norm.buffers()):
                    if tensor.ndim:  # the count of batches has no channels
                        tensor.copy_(tensor[order])
            for taker in group.takers:
                taker.weight.copy_(taker.weight[:, order])


def _importance(maker: SlimConvNorm) -> torch.Tensor:
    """Return the importance of each channel that a layer makes, float32 [channels]."""
    (norm,) = (module for module in maker.norm.modules() if isinstance(module, nn.BatchNorm2d))
    gamma = norm.weight if norm.weight is not None else maker.norm.weight
    assert isinstance(gamma, torch.Tensor) and norm.running_var is not None
    return maker.weight.abs().sum(dim=(1, 2, 3)) * gamma.abs() / torch.sqrt(norm.running_var + norm.eps)
