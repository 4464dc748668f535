"""The proof that an exported graph computes what was trained.

Compared are the *slimmable* network, not the cut one, and ONNX Runtime on the very bytes that will be written.
Names are compared first, then shapes, then values, then the decisions and last the accuracy over the test split;
each failure has a message of its own with the numbers.

Two logits closer than ``TIE`` are a tie: each side may be off by half of it, so which one comes out on top says
nothing about the export. With these two constants equal logits imply equal decisions; the decisions are compared
all the same, because they are what is served.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.errors import ParityError, one_line
from export.network.protocol import SlimmableNetwork
from export.repository.model_config import INPUT_NAME, OUTPUT_NAME
from export.training.datasets import ImageSet
from export.width import Width, render_ratio

BATCHES = (1, 3, 32)
TOLERANCE = 1e-4
"""Largest absolute difference of a logit."""
TIE = 2 * TOLERANCE
ACCURACY_TOLERANCE = 0.0002
"""Largest difference of top-1, in 0..1: two images in ten thousand."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison of one width found.

    Attributes:
        max_abs_diff: The largest difference of any logit, over the sample batches.
        accuracy_pytorch: Top-1 in 0..1 of the slimmable network over the test split.
        accuracy_onnx: Top-1 in 0..1 of ONNX Runtime over the test split.
    """

    max_abs_diff: float
    accuracy_pytorch: float
    accuracy_onnx: float


def compare(network: SlimmableNetwork, width: Width, model: bytes, images: ImageSet) -> Parity:
    """Compare over sample batches and all of ``images``; raises ParityError when any of it is out of tolerance."""
    samples = images.batch(torch.arange(max(BATCHES)) % len(images))[0].float() / 255
    diff = check_parity(network, width, model, samples)
    pytorch, onnx = _accuracies(network, width, open_session(model), images)
    if not abs(pytorch - onnx) <= ACCURACY_TOLERANCE:
        raise ParityError(
            f"width {render_ratio(width)}: top-1 is {onnx:.4f} in ONNX Runtime and {pytorch:.4f} in PyTorch, "
            f"more than {ACCURACY_TOLERANCE} apart; nothing was written"
        )
    return Parity(diff, pytorch, onnx)


def check_parity(network: SlimmableNetwork, width: Width, model: bytes, samples: torch.Tensor) -> float:
    """Return the largest absolute difference of a logit between ``network`` at ``width`` and ``model``.

    The network is in evaluation mode, on the CPU; samples are images, float32 [at least 32, c, h, w] in 0..1. Raises
    ParityError when names, shapes, logits or decisions differ.
    """
    session = open_session(model)
    label = f"width {render_ratio(width)}"
    names = ([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])
    if names != ([INPUT_NAME], [OUTPUT_NAME]):
        raise ParityError(f"{label}: inputs and outputs are {names}, not {INPUT_NAME} and {OUTPUT_NAME}")
    worst = 0.0
    for size in BATCHES:
        with torch.inference_mode():
            wanted = network(samples[:size], width).numpy()
        try:
            found = session.run([OUTPUT_NAME], {INPUT_NAME: samples[:size].numpy()})[0]
        except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
            raise ParityError(f"{label}: a batch of {size} can't be run: {one_line(exc)}") from exc
        worst = max(worst, _compare_logits(wanted, found, f"{label}, batch of {size}"))
    return worst


def _compare_logits(wanted: NDArray[np.float32], found: NDArray[np.float32], label: str) -> float:
    if found.shape != wanted.shape:
        raise ParityError(f"{label}: logits have shape {found.shape} and should have {wanted.shape}")
    diff = float(np.abs(found - wanted).max())
    if not diff <= TOLERANCE:  # also when it is not a number
        raise ParityError(f"{label}: logits differ by up to {diff:.3g}, allowed is {TOLERANCE:g}")
    top = np.sort(wanted, axis=1)
    tied = top[:, -1] - top[:, -2] <= TIE if wanted.shape[1] > 1 else np.ones(len(wanted), bool)
    differing = int(((wanted.argmax(1) != found.argmax(1)) & ~tied).sum())
    if differing:
        raise ParityError(f"{label}: {differing} images get another label than in PyTorch")
    return diff


def _accuracies(
    network: SlimmableNetwork, width: Width, session: onnxruntime.InferenceSession, images: ImageSet
) -> tuple[float, float]:
    """Return top-1 in 0..1 of both sides in one pass over ``images``."""
    correct = np.zeros(2, dtype=np.int64)
    for raw, labels in map(images.batch, torch.split(torch.arange(len(images)), _BATCH)):
        pixels = raw.float() / 255
        with torch.inference_mode():
            pytorch = network(pixels, width).argmax(1)
        onnx = session.run([OUTPUT_NAME], {INPUT_NAME: pixels.numpy()})[0].argmax(1)
        correct += [int((pytorch == labels).sum()), int((onnx == labels.numpy()).sum())]
    return float(correct[0] / len(images)), float(correct[1] / len(images))


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU with as many threads as PyTorch uses; raises ParityError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        raise ParityError(f"ONNX Runtime can't load the exported graph: {one_line(exc)}") from exc
