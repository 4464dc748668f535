"""Checkpoints: plain values and tensors, read with ``torch.load(weights_only=True)`` and written atomically.

A file holds all that is needed to rebuild the network (architecture, widths, image spec) and, while training is
under way, the optimizer. It never holds code, so a foreign file can do no harm beyond being refused. A network of
one's own it only names: that code is imported where the caller has named it too, never because a file does.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch

from export.errors import CheckpointError, one_line
from export.network.factories import BUILT_IN, is_own, make_network
from export.network.protocol import SlimmableNetwork
from export.training.datasets import ImageSpec
from export.width import Width, render_ratio

FORMAT = "slim-scheduler checkpoint 1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network and where its training stands.

    Attributes:
        widths: The widths that it was trained for, ascending.
        images: The images that it was trained on.
        architecture: The name of a built-in network, or ``package.module:function`` of one's own.
        model: The state dict of the network.
        epoch: The number of finished epochs.
        settings: The settings of the training, as plain values.
        history: The metrics of each finished epoch.
        optimizer: The state dict of the optimizer; absent once training has ended.
        partial_epoch: Of an epoch under way, the losses of its steps and the state of its generator; else absent.
        accuracy: Top-1 in 0..1 on the test split by width in percent; empty until training has ended.
    """

    architecture: str
    widths: tuple[Width, ...]
    images: ImageSpec
    model: Mapping[str, torch.Tensor]
    epoch: int
    settings: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    optimizer: Mapping[str, Any] | None = None
    partial_epoch: Mapping[str, Any] | None = None
    accuracy: Mapping[Width, float] = field(default_factory=dict)

    def network(self) -> SlimmableNetwork:
        """Return the network with these weights, in evaluation mode.

        Raises CheckpointError when they do not fit it, and NetworkError when it can't be made.
        """
        network = make_network(self.architecture, self.widths, self.images.task)
        try:
            network.load_state_dict(dict(self.model))
        except RuntimeError as exc:
            raise CheckpointError(
                f"the weights do not fit {self.architecture}: {one_line(exc)}; give the network they were trained with"
            ) from exc
        return network.eval()

    def require_widths(self, wanted: tuple[Width, ...]) -> None:
        """Raise CheckpointError, which names them, for widths that the network was not trained for."""
        missing = [w for w in wanted if w not in self.widths]
        if missing:
            raise CheckpointError(
                f"the checkpoint has no width {', '.join(map(render_ratio, missing))}; "
                f"it was trained for {', '.join(map(render_ratio, self.widths))}"
            )


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a file so that a crash leaves the old or the new one, never a part; raises CheckpointError."""
    values = {"format": FORMAT, **asdict(checkpoint)}
    replace_file(path, lambda sink: torch.save(values, sink))


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Put what is written in place of a file, whole or not at all; raises CheckpointError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # another process may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as sink:
            write(sink)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(path)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(exc, OSError | RuntimeError):  # torch's zip writer turns a full disk into a RuntimeError
            raise CheckpointError(f"can't write {path} ({exc}); free space or choose another folder") from exc
        raise


def load_checkpoint(path: Path, network: str | None = None) -> Checkpoint:
    """Return a checkpoint.

    The network is the ``package.module:function`` that the caller trusts for a checkpoint of a network of one's own;
    it may have moved since the training. Raises CheckpointError when the file is missing, truncated, not one of ours or
    not of this kind of network.
    """
    values = read_tensors(path)
    if values.pop("format", None) != FORMAT:
        raise CheckpointError(
            f"{path} is a file of another program (no {FORMAT!r} mark); give one of 'slimsched train'"
        )
    try:
        checkpoint = _parse(values)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise CheckpointError(
            f"{path} has missing, unknown or bad fields ({one_line(exc)}); damaged or of another version, train anew"
        ) from exc
    if is_own(checkpoint.architecture) != (network is not None):
        remedy = (
            "leave --network out"
            if network
            else f"give --network {checkpoint.architecture}, if you trust that code: it is imported and run"
        )
        raise CheckpointError(f"{path} is of the network {checkpoint.architecture}; {remedy}")
    return replace(checkpoint, architecture=network) if network else checkpoint


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file of ``torch.save``, on the CPU; raises CheckpointError when there is none."""
    try:
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; 'slimsched train' writes one") from None
    except OSError as exc:
        raise CheckpointError(f"can't read {path} ({exc.strerror or exc}); give a file of 'slimsched train'") from exc
    try:
        values = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as exc:  # on garbage the restricted unpickler raises nearly anything, KeyError included
        raise CheckpointError(f"{path} is truncated or no checkpoint; copy it again or train anew") from exc
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} holds a {type(values).__name__} and no dictionary; give a file of 'slimsched train'"
        )
    return values


def _parse(values: dict[str, Any]) -> Checkpoint:
    spec = values.pop("images")
    lists = {key: tuple(spec[key]) for key in ("mean", "std", "labels")}
    widths = tuple(Width(int(w)) for w in values.pop("widths"))
    if not widths or list(widths) != sorted(set(widths)) or not 1 <= widths[0] <= widths[-1] <= 100:
        raise ValueError(f"widths {widths}")
    checkpoint = Checkpoint(
        images=ImageSpec(**{**spec, **lists}), widths=widths, history=tuple(values.pop("history")), **values
    )
    if not is_own(checkpoint.architecture) and checkpoint.architecture not in BUILT_IN:
        raise ValueError(f"unknown network {checkpoint.architecture!r}")
    dict(checkpoint.model).items()
    dict(checkpoint.accuracy).items()
    return checkpoint
