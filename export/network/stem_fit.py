"""Whether a network's stem fits the size of the images: the same network costs fifty times as much on large ones."""

from __future__ import annotations

import torch

from export.network.factories import BUILT_IN
from export.network.protocol import AtWidth, Task
from export.network.subnet import flops_per_image
from export.width import Width


def stem_warning(name: str, task: Task) -> str | None:
    """Return what is wrong with a built-in network for these images, and which others would fit; None when it fits.

    Of a network of one's own nothing is known.
    """
    side = max(task.shape[1:])
    network = BUILT_IN.get(name)
    if network is None or network.smallest_side <= side <= network.largest_side:
        return None
    fitting = [n for n, other in BUILT_IN.items() if other.smallest_side <= side <= other.largest_side]
    others = ", ".join(f"{n} {_gflops(n, task)}" for n in fitting) or "none of the built-in ones"
    return (
        f"the stem of {name} is for images of {network.smallest_side} to {network.largest_side} pixels, not {side}; "
        f"at full width an image takes {_gflops(name, task)}. For this size: {others}"
    )


def _gflops(name: str, task: Task) -> str:
    """Return the work of one image at full width; nothing is computed for it."""
    full = Width(100)
    with torch.device("meta"):
        network = BUILT_IN[name].make((full,), task).eval()
        return f"{flops_per_image(AtWidth(network, full), task.shape) / 1e9:.3g} GFLOPs"
