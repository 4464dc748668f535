"""Training one network for all its widths.

Each step runs the sandwich rule with in-place distillation (Yu and Huang, "Universally Slimmable Networks",
arXiv 1903.05134): the full width learns from the labels, the narrowest and some random widths between learn
from the full width's detached soft output, and one optimizer step is taken on the sum of their gradients.

Randomness is a function of (seed, epoch) alone: every epoch seeds one generator anew. Within a long epoch a
checkpoint is saved every few minutes, and after its last step, with the generator's state. A training resumed from any
of them is equal, bit for bit on a CPU, to one never interrupted.

``train`` is a generator of events; what shows progress to a person is the caller's affair, and an abandoned
generator loses at most ``CHECKPOINT_INTERVAL_S`` of learning.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from export.errors import CheckpointError, DataUnavailableError, ExportError
from export.network.factories import is_own, make_network
from export.network.protocol import SlimmableNetwork
from export.training.calibration import accuracy_of, calibrate, memory_order, to_unit
from export.training.checkpoint import Checkpoint, load_checkpoint, replace_file, save_checkpoint
from export.training.datasets import ImageSet
from export.training.folder import held_alone
from export.training.pretrained import start_from
from export.width import Width

LAST = "last.pt"
"""State of the training some minutes ago or less, with the optimizer."""
FINAL = "model.pt"
"""The trained network, calibrated and measured, without the optimizer."""
METRICS = "metrics.jsonl"
CHECKPOINT_INTERVAL_S = 300.0
"""Longest time of learning between checkpoints, but for one step; half of what an interruption may cost."""


_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What decides the outcome of a training, besides the data.

    Attributes:
        architecture: A built-in network's name, or ``package.module:function`` of one's own.
        widths: The widths, ascending; the others learn from the last.
        epochs: Passes over the training split.
        learning_rate: Peak of the one-cycle schedule.
        warmup_ratio: Part of all steps in which the rate climbs, 0..1.
        momentum: The momentum of SGD with Nesterov's correction.
        weight_decay: The decay of convolution and linear weights; never of batch norms and biases.
        middle_widths: Random widths between the narrowest and the full one in each step.
        crop_padding: The pixels of zero padding before random crops.
        flip: Whether half of the images are mirrored left to right.
        bf16: Whether forward passes run in bfloat16 where that is safe.
        init: The file with a trained network of full width to start from, if any.
    """

    architecture: str
    widths: tuple[Width, ...]
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup_ratio: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    middle_widths: int = 2
    crop_padding: int = 2
    flip: bool = True
    seed: int = 0
    bf16: bool = False
    init: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The training starts from something; the message says from what, in a sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step was taken."""

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch was finished, measured and saved.

    Attributes:
        metrics: ``epoch``, ``learning_rate``, ``loss``, ``accuracy`` (by width in percent, 0..1), ``seconds``.
    """

    metrics: Mapping[str, Any]


def learning_rate_at(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Return the rate of step ``step`` (from 0): linear climb to the peak, then half a cosine to zero."""
    warmup = max(1, round(total_steps * settings.warmup_ratio))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def sandwich_widths(widths: tuple[Width, ...], middle_count: int, generator: torch.Generator) -> tuple[Width, ...]:
    """Return the students of one step: random middle widths, then the narrowest; empty with one width only."""
    middle = widths[1:-1]
    order = torch.randperm(len(middle), generator=generator)[:middle_count]
    return tuple(middle[int(i)] for i in order) + widths[:1] * (len(widths) > 1)


def augment(images: torch.Tensor, settings: TrainSettings, generator: torch.Generator) -> torch.Tensor:
    """Return the uint8 [n, c, h, w] batch, each image shifted by its own random offset and perhaps mirrored."""
    n, _, height, width = images.shape
    pad = settings.crop_padding
    if pad:
        padded = functional.pad(images, (pad, pad, pad, pad))
        offset = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
        rows = offset[0, :, None] + torch.arange(height)
        columns = offset[1, :, None] + torch.arange(width)
        index = torch.arange(n)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if settings.flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def train(
    settings: TrainSettings,
    train_images: ImageSet,
    test_images: ImageSet,
    out: Path,
    *,
    device: str,
    resume: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Started | StepDone | EpochDone | Checkpoint]:
    """Train, yielding an event after each step and epoch, and at last the finished checkpoint.

    The folder ``out`` gets ``last.pt``, ``model.pt`` and ``metrics.jsonl``. To resume is to go on from ``last.pt``,
    where there is one, with the settings in it. Each epoch is measured on the test images, and nothing is chosen by
    them; measuring that was interrupted is repeated. The device is called as in torch; the clock, in seconds, says when
    to save within an epoch.

    Raises:
        CheckpointError: when ``out`` can't be written, is written by another training, or holds one that these settings
            do not continue; when ``init`` does not fit the network.
        DataUnavailableError: when the two splits are not of one kind.
        ExportError: when the loss is no number any more.
        NetworkError: when the network can't be made.
    """
    _require_same_kind(train_images, test_images)
    torch.manual_seed(settings.seed)
    network = make_network(settings.architecture, settings.widths, train_images.spec.task)
    with held_alone(out):  # a network that can't be made leaves no folder
        yield from _train(
            settings, train_images, test_images, network, out, device=torch.device(device), resume=resume, clock=clock
        )


def _train(
    settings: TrainSettings,
    train_images: ImageSet,
    test_images: ImageSet,
    network: SlimmableNetwork,
    out: Path,
    *,
    device: torch.device,
    resume: bool,
    clock: Callable[[], float],
) -> Iterator[Started | StepDone | EpochDone | Checkpoint]:
    training = _Training(settings, train_images, network, device=device, out=out, clock=clock)
    saved = _saved(out, settings, resume=resume)
    if saved is not None:
        training.restore(saved)
        _write_metrics(training.history, out / METRICS)  # an interrupt may have come before the last line of it
    elif resume:
        yield Started(f"No {LAST} in {out} to go on from: the training starts at its beginning.")
    if saved is None and settings.init is not None:
        yield Started(start_from(Path(settings.init), network, settings.architecture, train_images.spec.task))
    partial_epoch = saved.partial_epoch if saved else None
    for number in range(len(training.history) + 1, settings.epochs + 1):
        started_s = clock()
        epoch = _begin_epoch(number, settings, train_images, partial_epoch)
        partial_epoch = None
        for event in training.steps(epoch):
            # Measuring many widths on many images takes long too, so it does not put what was learnt at risk.
            if training.is_save_due() or event.step == event.steps_per_epoch:
                training.save(epoch=epoch)
            yield event
        metrics = {
            "epoch": number,
            "learning_rate": training.optimizer.param_groups[0]["lr"],
            "loss": sum(epoch.losses) / len(epoch.losses),
            "accuracy": {str(width): accuracy for width, accuracy in training.accuracies(test_images).items()},
            "seconds": round(clock() - started_s, 1),
        }
        training.history.append(metrics)
        training.save()
        _write_metrics(training.history, out / METRICS)
        yield EpochDone(metrics)
    calibrate(network, settings.widths, train_images, device=training.device)
    final = replace(training.checkpoint(), optimizer=None, accuracy=training.accuracies(test_images))
    save_checkpoint(final, out / FINAL)
    yield final


def _saved(out: Path, settings: TrainSettings, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, if any; raises CheckpointError for a training that would be overwritten."""
    if resume and (out / LAST).exists():
        return load_checkpoint(out / LAST, settings.architecture if is_own(settings.architecture) else None)
    if (out / LAST).exists() or (out / FINAL).exists():
        remedy = "choose another --out" if resume else "add --resume to go on or choose another --out"
        raise CheckpointError(f"{out} holds a training already{f', without {LAST}' if resume else ''}; {remedy}")
    return None


@dataclass(frozen=True, slots=True)
class _Epoch:
    """An epoch under way.

    Attributes:
        number: Its number, from 1.
        parts: The indices of the images of each step, int64 [n].
        generator: The source of what is random in the steps that are left.
        losses: The loss of each step that was taken.
    """

    number: int
    parts: list[torch.Tensor]
    generator: torch.Generator
    losses: list[float]


def _begin_epoch(
    number: int, settings: TrainSettings, images: ImageSet, partial_epoch: Mapping[str, Any] | None
) -> _Epoch:
    """Return an epoch, where it was interrupted if a part of it is done."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    order = torch.randperm(len(images), generator=generator)
    parts = list(torch.split(order, settings.batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:  # one image alone has no variance for a batch norm to take
        parts[-2:] = [torch.cat(parts[-2:])]
    if partial_epoch is None:
        return _Epoch(number, parts, generator, [])
    generator.set_state(partial_epoch["generator"])
    return _Epoch(number, parts, generator, list(partial_epoch["losses"]))


class _Training:
    """What learns, and what it has learnt so far: network, optimizer and the metrics of the epochs that are done."""

    def __init__(
        self,
        settings: TrainSettings,
        images: ImageSet,
        network: SlimmableNetwork,
        *,
        device: torch.device,
        out: Path,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.images = images
        self.device = device
        self.network = network
        self.network.to(device=device, memory_format=memory_order(device))  # type: ignore[call-overload]  # torch lacks it
        self.optimizer = _optimizer(network, settings)
        self.history: list[Mapping[str, Any]] = []
        self._path = out / LAST
        self._clock = clock
        self._saved_s = clock()

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; raises CheckpointError for one of another training."""
        _require_same_training(saved, self.settings, self.images)
        if saved.optimizer is None:
            raise CheckpointError(f"can't resume: {LAST} holds no optimizer state; train anew with another --out")
        self.network.load_state_dict(dict(saved.model))
        self.optimizer.load_state_dict(dict(saved.optimizer))
        self.history = list(saved.history)

    def checkpoint(self, *, epoch: _Epoch | None = None) -> Checkpoint:
        """Return the state after the epochs that are done, and after a part of another one."""
        return Checkpoint(
            architecture=self.settings.architecture,
            widths=self.settings.widths,
            images=self.images.spec,
            model={k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()},
            epoch=len(self.history),
            settings=asdict(self.settings),
            history=tuple(self.history),
            optimizer=self.optimizer.state_dict(),
            partial_epoch={"losses": epoch.losses, "generator": epoch.generator.get_state()} if epoch else None,
            accuracy={},
        )

    def is_save_due(self) -> bool:
        """Return whether as much has been learnt since the last checkpoint as an interruption may cost."""
        return self._clock() - self._saved_s >= CHECKPOINT_INTERVAL_S

    def save(self, *, epoch: _Epoch | None = None) -> None:
        """Replace the last checkpoint by one of now."""
        save_checkpoint(self.checkpoint(epoch=epoch), self._path)
        self._saved_s = self._clock()

    def accuracies(self, images: ImageSet) -> dict[Width, float]:
        """Return the top-1 accuracy of each width, 0..1."""
        return {width: accuracy_of(self.network, images, width, device=self.device) for width in self.settings.widths}

    def steps(self, epoch: _Epoch) -> Iterator[StepDone]:
        """Take the steps that are left of an epoch."""
        settings, steps, first = self.settings, len(epoch.parts), len(epoch.losses)
        self.network.train()
        for step, (pixels, labels) in enumerate(map(self.images.batch, epoch.parts[first:]), start=first):
            rate = learning_rate_at((epoch.number - 1) * steps + step, settings.epochs * steps, settings)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            students = sandwich_widths(settings.widths, settings.middle_widths, epoch.generator)
            batch = to_unit(augment(pixels, settings, epoch.generator), self.device)
            widths = (settings.widths[-1], *students)
            # What a network draws itself, as for dropout, has to be the same after an interruption too.
            torch.manual_seed((settings.seed * 1_000_003 + epoch.number) * 1_000_003 + step & _LARGEST_SEED)
            loss = self._step(batch, labels.to(self.device), widths)
            if not math.isfinite(loss):
                raise ExportError(
                    f"the loss is {loss} at step {step + 1} of epoch {epoch.number}; lower --learning-rate and start "
                    "anew"
                )
            epoch.losses.append(loss)
            yield StepDone(epoch.number, step + 1, steps, loss)

    def _step(self, batch: torch.Tensor, labels: torch.Tensor, widths: tuple[Width, ...]) -> float:
        """Take one step, in which the first width learns from the labels and the others from it; return its loss."""

        def forward(width: Width) -> torch.Tensor:
            with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
                logits: torch.Tensor = self.network(batch, width)
            return logits.float()

        self.optimizer.zero_grad(set_to_none=True)
        full, *students = widths
        logits = forward(full)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's Tensor.backward has no annotations
        soft_labels = logits.detach().softmax(dim=1)
        for width in students:
            functional.cross_entropy(forward(width), soft_labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


def _optimizer(network: SlimmableNetwork, settings: TrainSettings) -> torch.optim.SGD:
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=True,
    )


def _require_same_training(saved: Checkpoint, settings: TrainSettings, images: ImageSet) -> None:
    wanted = asdict(settings)
    different = sorted(key for key in wanted if wanted[key] != saved.settings.get(key))
    if different:
        key = different[0]
        raise CheckpointError(
            f"can't resume: {key} is {wanted[key]!r} now and was {saved.settings.get(key)!r}; "
            "repeat the first command's flags or choose another --out"
        )
    if images.spec != saved.images:
        raise CheckpointError(f"can't resume: the training was on {saved.images.name}, not {images.spec.name}")


def _write_metrics(history: list[Mapping[str, Any]], path: Path) -> None:
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
    replace_file(path, lambda sink: sink.write(lines.encode()))


def _require_same_kind(train_images: ImageSet, test_images: ImageSet) -> None:
    for name in ("name", "shape", "labels"):
        learnt, tested = getattr(train_images.spec, name), getattr(test_images.spec, name)
        if learnt != tested:
            raise DataUnavailableError(
                f"training and test split differ in {name}: {learnt} and {tested}; give both the same class folders"
            )
