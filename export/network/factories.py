"""Networks by name: the built-in ones, and ``package.module:function`` for one's own.

Whatever a factory returns is tried at every width before anything is built on it, so that a slip in somebody's
network is one line that says what, and not a traceback in the middle of a training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from export.errors import NetworkError, load_function, one_line
from export.network.convnet import SlimConvNet
from export.network.mobilenet import SlimMobileNetV2
from export.network.protocol import Factory, SlimmableNetwork, Task
from export.network.resnet import ARCHITECTURES, SlimResNet
from export.width import Width, render_ratio

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A network of this package.

    Attributes:
        largest_side: The longest side of images, in pixels, that its stem is made for.
        smallest_side: The shortest such side.
    """

    make: Factory
    smallest_side: int
    largest_side: int


BUILT_IN: Mapping[str, BuiltIn] = {
    **{
        name: BuiltIn(partial(SlimResNet, size), *((96, 512) if size.imagenet_stem else (16, 95)))
        for name, size in ARCHITECTURES.items()
    },
    "slimmobilenet-v2": BuiltIn(SlimMobileNetV2, 96, 512),
    "slimconvnet": BuiltIn(SlimConvNet, 16, 40),
}


def is_own(name: str) -> bool:
    """Whether a name is that of somebody's own factory, whose code runs when it is used."""
    return ":" in name


def make_network(name: str, widths: tuple[Width, ...], task: Task) -> SlimmableNetwork:
    """Return the network of a name, with new weights; raises NetworkError when it can't be made."""
    if not is_own(name):
        if name not in BUILT_IN:
            raise NetworkError(f"unknown network {name!r}; known are {', '.join(BUILT_IN)}; your own is --network")
        return BUILT_IN[name].make(widths, task)
    factory = _imported(name)
    try:
        network = factory(widths, task)
    except Exception as exc:  # somebody's own code
        raise NetworkError(
            f"--network {name} raises {type(exc).__name__}: {one_line(exc)}; called with ({widths}, {task}); "
            "mend it, or give another"
        ) from exc
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} returns a {type(network).__name__}; return a torch.nn.Module")
    _try(name, network, widths, task)
    return network


def _imported(name: str) -> Factory:
    if not _OWN.fullmatch(name):
        raise NetworkError(f"network {name!r} is not of the form package.module:function, such as mynets.small:make")
    made: Factory = load_function("--network", name, NetworkError)
    return made


def _try(name: str, network: SlimmableNetwork, widths: tuple[Width, ...], task: Task) -> None:
    """Raise NetworkError unless the network answers two blank images as the protocol says, at every width."""
    pixels = torch.zeros(2, *task.shape)
    before = network.training
    network.eval()
    for width in widths:
        label = f"{name} at width {render_ratio(width)}"
        try:
            with torch.inference_mode():
                logits = network(pixels, width)
        except Exception as exc:  # somebody's own code
            raise NetworkError(
                f"{label}: forward(pixels {list(pixels.shape)}, {width}) raises {type(exc).__name__}: {one_line(exc)}; "
                "it takes pixels and a width in whole percent, or wrap it with export.network.protocol.Switched"
            ) from exc
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, task.classes) or not logits.is_floating_point():
            found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise NetworkError(f"{label}: forward returns {found}; return logits float32 [n, {task.classes}]")
    network.train(before)
