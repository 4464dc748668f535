"""What is done to a network with images besides learning: its batch norms' statistics, and its accuracy."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from export.network.protocol import SlimmableNetwork
from export.training.datasets import ImageSet
from export.width import Width

_BATCH = 500


def memory_order(device: torch.device) -> torch.memory_format:
    """Return the order in memory in which images and weights are convolved on a device.

    Convolutions like channels last. On a CPU oneDNN then writes past its buffers where it takes the gradients of a 1×1
    convolution with a stride and with fewer channels than a vector has numbers (uxlfoundation/oneDNN#6035), as narrow
    widths have them: on large images the training crashes.
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def to_unit(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return float32 pixels in 0..1 in the order of ``memory_order``.

    Images of one channel are in either order at once, and ``contiguous`` would leave them the strides of the wrong one.
    """
    return (pixels.to(device).float() / 255).clone(memory_format=memory_order(device))


def accuracy_of(network: SlimmableNetwork, images: ImageSet, width: Width, *, device: torch.device) -> float:
    """Return top-1 in 0..1 of ``network`` at ``width`` over all images."""
    network.eval()
    correct = 0
    with torch.inference_mode():
        for pixels, labels in map(images.batch, torch.split(torch.arange(len(images)), _BATCH)):
            logits = network(to_unit(pixels, device), width)
            correct += int((logits.argmax(1).cpu() == labels).sum())
    return correct / len(images)


def calibrate(
    network: SlimmableNetwork, widths: tuple[Width, ...], images: ImageSet, *, device: torch.device, batches: int = 60
) -> None:
    """Set every batch norm's statistics to the plain mean over training images as they will be served.

    The running averages kept in training lag behind the weights and saw augmented images; a pass over evenly
    spread images without augmentation removes both errors (arXiv 1903.05134, section 3.3). Which batch norms belong to
    a width is seen as they are called; one that several widths call gets the mean over all of them.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta: dict[_BatchNorm, float | None] = {}

    def begin(norm: nn.Module, _: object) -> None:
        if isinstance(norm, _BatchNorm) and norm not in momenta:
            momenta[norm] = norm.momentum
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean

    hooks = [norm.register_forward_pre_hook(begin) for norm in norms]
    # Batches of equal size, because each counts the same in the mean.
    spread = torch.linspace(0, len(images) - 1, min(len(images), batches * _BATCH)).long()
    with torch.no_grad():
        for width in widths:
            for part in torch.tensor_split(spread, math.ceil(len(spread) / _BATCH)):
                network(to_unit(images.batch(part)[0], device), width)
    for hook in hooks:
        hook.remove()
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    network.eval()
