"""A training as a person sees it: bars on a terminal, a line an epoch everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from export.training.checkpoint import Checkpoint
from export.training.datasets import ImageSet
from export.training.train import LAST, EpochDone, Started, StepDone, TrainSettings, train


def show_training(
    console: Console,
    settings: TrainSettings,
    train_images: ImageSet,
    test_images: ImageSet,
    out: Path,
    *,
    device: str,
    resume: bool,
) -> Checkpoint:
    """Consume the training's events: two bars with the time left on a terminal, a line an epoch everywhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        total = progress.add_task("all epochs", total=None)
        current = progress.add_task("epoch", total=None)
        for event in train(settings, train_images, test_images, out, device=device, resume=resume):
            match event:
                case Started(message):
                    click.echo(message, err=True)
                case StepDone(epoch, step, steps, loss):
                    done = (epoch - 1) * steps + step
                    if progress.tasks[0].total is None:  # start the clock here, so that resumed epochs don't count
                        progress.reset(total, total=settings.epochs * steps, completed=done)
                    progress.update(total, completed=done)
                    if step == 1:
                        progress.reset(current)
                    text = f"epoch {epoch}/{settings.epochs}, loss {loss:.3f}"
                    progress.update(current, description=text, total=steps, completed=step)
                case EpochDone(metrics):
                    console.print(_epoch_line(metrics, settings.epochs), highlight=False, soft_wrap=True)
                case checkpoint:
                    return checkpoint
    raise AssertionError("the training ended without its last event")


def _epoch_line(metrics: Any, epochs: int) -> str:
    accuracy = "  ".join(f"{int(w) / 100:.2f}: {100 * a:.2f} %" for w, a in metrics["accuracy"].items())
    return (
        f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.4f}  top-1 {accuracy}  ({metrics['seconds']:.0f} s)"
    )


def interrupted(out: Path) -> str:
    """Return what a person who interrupted a training should know."""
    if (out / LAST).exists():
        return f"Stopped. What was learnt until then is in {out}; the same command with --resume goes on from there."
    return "Stopped before the first checkpoint; nothing was kept."
