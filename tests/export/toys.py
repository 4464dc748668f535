"""Small worlds for the tests of export: networks with lively batch norms, and images that can be learnt in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

from export.network.factories import make_network
from export.network.protocol import Task
from export.network.resnet import SlimResNet
from export.training.checkpoint import Checkpoint
from export.training.datasets import ImageSpec, InMemoryImages
from export.width import Width

SIDE = 12
LABELS = ("top", "bottom", "left side")
WIDTHS = (Width(25), Width(50), Width(75), Width(100))


def toy_spec(channels: int = 1, labels: tuple[str, ...] = LABELS) -> ImageSpec:
    return ImageSpec("toys", channels, SIDE, SIDE, (0.4,) * channels, (0.3,) * channels, labels)


def toy_images(count: int, seed: int = 0, spec: ImageSpec | None = None) -> InMemoryImages:
    """Dim noise with one bright half: the class says which."""
    spec = spec or toy_spec()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, *spec.shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % len(spec.labels)
    half = SIDE // 2
    bright = {0: (slice(0, half), slice(None)), 1: (slice(half, None), slice(None)), 2: (slice(None), slice(0, half))}
    for image, label in zip(images, labels.tolist(), strict=True):
        rows, columns = bright[label]
        image[:, rows, columns] += 100
    return InMemoryImages(spec, images, labels)


def lively_network(
    name: str = "slimresnet-tiny",
    widths: tuple[Width, ...] = WIDTHS,
    *,
    channels: int = 1,
    classes: int = 3,
    seed: int = 0,
) -> SlimResNet:
    """A network whose batch norms have random statistics and affine parts, as after a training."""
    torch.manual_seed(seed)
    network = make_network(name, widths, toy_task(channels, classes))
    assert isinstance(network, SlimResNet)
    enliven(network)
    return network.eval()


def toy_task(channels: int = 1, classes: int = 3, side: int = SIDE) -> Task:
    return Task(classes, (channels, side, side), (0.4,) * channels, (0.3,) * channels)


def enliven(network: torch.nn.Module) -> None:
    """Give every batch norm random statistics, and a random affine part where it has one."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.2)


def toy_checkpoint(
    network: SlimResNet, spec: ImageSpec | None = None, widths: tuple[Width, ...] = WIDTHS
) -> Checkpoint:
    return Checkpoint(
        architecture=network.architecture.name,
        widths=widths,
        images=spec or toy_spec(),
        model=network.state_dict(),
        epoch=1,
        settings={},
        history=(),
        accuracy=dict.fromkeys(widths, 0.5),
    )


def write_image_folder(root: Path, counts: Mapping[str, int], side: int = 16) -> None:
    """PNGs under ``root/<split>/<dark|light>/``; the classes differ in brightness."""
    generator = torch.Generator().manual_seed(1)
    for split, count in counts.items():
        for label, base in (("dark", 30), ("light", 170)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = base + torch.randint(0, 60, (side, side + 4, 3), generator=generator)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{index}.png")
