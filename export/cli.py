"""The commands ``train``, ``export`` and ``verify``; they compose, the work is done elsewhere.

Nothing heavy is imported with this module: the root command reads it to list the commands, on machines that have
no PyTorch. Expected failures leave as one line; the root command prints the chained traceback with ``--debug``.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from export.errors import ExportError
from export.limits import MAX_BATCH_SIZE, MAX_INSTANCES, MAX_QUEUE_DELAY_US, MAX_THREADS
from export.width import Width, parse_widths, render_ratio

if TYPE_CHECKING:
    from export.family import ProvenModel
    from export.repository.verification import Finding, Verification
    from export.training.checkpoint import Checkpoint
    from export.training.datasets import ImageSet

_PATH = click.Path(path_type=Path)
_DATASET = click.Choice(["fashion-mnist", "cifar10", "cifar100", "imagefolder"])
_DEFAULTS_SHOWN = {"show_default": True}
_EXTRA = frozenset({"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "matplotlib"})
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class ExportCommand(click.Command):
    """A command whose expected failures become one line and a non-zero exit."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected failure ends in one line."""
        try:
            return super().invoke(ctx)
        except ExportError as exc:
            raise click.ClickException(str(exc)) from exc
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] not in _EXTRA:
                raise
            raise click.ClickException(
                f"'{ctx.info_name}' needs the export extra ({exc.name} is missing): "
                f"{shlex.quote(sys.executable)} -m pip install 'slim-scheduler[export]'"
            ) from exc


class FiniteRange(click.FloatRange):
    """A number in a range; unlike click's own it refuses what is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that was given."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def _example(command: str) -> str:
    return f"\b\nExample:\n  {command}"


_widths = click.option("--widths", default="0.25,0.5,0.75,1.0", help="Width ratios, comma-separated.")


def _findable(_: click.Context, __: click.Parameter, network: str | None) -> str | None:
    """Let a network's module be found where the command is run, as ``python -m`` does."""
    if network is not None and ":" not in network:
        raise click.BadParameter(f"{network!r} is not of the form package.module:function; built-in ones are --model.")
    if network is not None:
        find_modules_here()
    return network


def find_modules_here() -> None:
    """Let modules be found where the command is run; the script of an installed command has its own folder there."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


_network = click.option(
    "--network",
    metavar="PACKAGE.MODULE:FUNCTION",
    callback=_findable,
    help="What makes your own network; its code is run.",
)
_image_size = click.option(
    "--image-size", type=click.IntRange(8), default=224, help="Crop of an image folder, in pixels."
)
_data_dir = click.option(
    "--data-dir", type=_PATH, default=Path("data"), help="Where the data set lies or is downloaded to."
)


repository_option = click.option(
    "--repository", type=_PATH, default=Path("model_repository"), help="Triton model repository to write to."
)


def _all_of(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    return lambda function: reduce(lambda made, option: option(made), reversed(options), function)


def tuning_options(max_batch_size: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Return what adds the flags of how models run: ``device``, and the numbers of ``Tuning``."""
    return _all_of(
        click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="Of the instances."),
        max_batch_size,
        click.option("--instances", "instance_count", type=click.IntRange(1, MAX_INSTANCES), default=1),
        click.option(
            "--intra-op-threads", type=click.IntRange(1, MAX_THREADS), default=1, help="Of an instance; only on CPU."
        ),
        click.option("--max-queue-delay-us", type=click.IntRange(0, MAX_QUEUE_DELAY_US), default=0),
    )


def _training_options(function: _F) -> _F:
    """Add the flags whose defaults are those of ``TrainSettings``."""
    return _all_of(
        click.option("--batch-size", type=click.IntRange(1), default=128),
        click.option("--learning-rate", type=FiniteRange(0, 100, min_open=True), default=0.1, help="Peak."),
        click.option("--weight-decay", type=FiniteRange(0, 1), default=5e-4),
        click.option(
            "--crop-padding", type=click.IntRange(0), default=2, help="Random crops after padding by this many pixels."
        ),
        click.option("--flip/--no-flip", default=True, help="Mirror half of the images."),
        click.option(
            "--middle-widths",
            type=click.IntRange(0),
            default=2,
            help="Random widths between the narrowest and the full one in each step.",
        ),
        click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0),
        click.option("--bf16", is_flag=True, help="Run forward passes in bfloat16."),
    )(function)


@click.command(
    cls=ExportCommand,
    context_settings=_DEFAULTS_SHOWN,
    short_help="Train one network for all its widths",
    epilog=_example("slimsched train --data fashion-mnist --epochs 14 --out runs/fashion"),
)
@click.option("--model", "architecture", default="slimresnet-tiny", help="Built-in network.")
@_network
@click.option("--init", type=click.Path(), help="State dict of a trained full-width network to start from.")
@click.option(
    "--data",
    "dataset",
    type=_DATASET,
    default="fashion-mnist",
)
@_data_dir
@_widths
@click.option("--epochs", type=click.IntRange(1), required=True, help="Passes over the training split.")
@click.option("--out", type=_PATH, required=True, help="Folder for checkpoints and metrics.")
@_training_options
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@_image_size
@click.option("--threads", type=click.IntRange(1), help="CPU threads of PyTorch; its own choice if not given.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
def train(
    dataset: str,
    data_dir: Path,
    widths: str,
    out: Path,
    device: str,
    image_size: int,
    threads: int | None,
    resume: bool,
    network: str | None,
    **values: Any,
) -> None:
    """Train one network for all its widths; writes checkpoints on the way and model.pt at the end."""
    parsed = parse_widths(widths)
    import matplotlib  # noqa: F401  # for the picture at the end; better missed before the training than after it
    import torch

    from export.network.stem_fit import stem_warning
    from export.training.datasets import load_images
    from export.training.progress import interrupted, show_training
    from export.training.train import TrainSettings

    source = click.get_current_context().get_parameter_source("architecture")
    if network is not None and source is ParameterSource.COMMANDLINE:
        raise ExportError("--model and --network each name a network; give one of them")
    settings = TrainSettings(widths=parsed, **values | ({"architecture": network} if network else {}))
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ExportError("PyTorch sees no CUDA device; give --device cpu or auto")
    train_images = load_images(dataset, data_dir, train=True, image_size=image_size)
    test_images = load_images(dataset, data_dir, train=False, image_size=image_size)
    warning = stem_warning(settings.architecture, train_images.spec.task)
    if warning:
        click.echo(f"Warning: {warning}", err=True)
    console = Console()
    try:
        checkpoint = show_training(console, settings, train_images, test_images, out, device=device, resume=resume)
    except KeyboardInterrupt:
        click.echo(interrupted(out), err=True)
        click.get_current_context().exit(130)
    _report_training(console, checkpoint, out)


def _report_training(console: Console, checkpoint: Checkpoint, out: Path) -> None:
    from export.training.report import plot_accuracy_flops, width_results
    from export.training.train import FINAL

    results = width_results(checkpoint)
    table = Table("width", "top-1 %", "MFLOPs", "parameters", title=f"{checkpoint.architecture}, test split")
    for result in results:
        accuracy, mflops = f"{100 * result.accuracy:.2f}", f"{result.flops / 1e6:.2f}"
        table.add_row(render_ratio(result.width), accuracy, mflops, f"{result.parameters:,}")
    right_align(table)
    console.print(table)
    picture = out / "accuracy_flops.png"
    plot_accuracy_flops(results, f"{checkpoint.architecture} on {checkpoint.images.name}", picture)
    click.echo(f"Wrote {out / FINAL} and {picture}")


def make_all(what: str, models: Iterable[_T], count: int) -> list[_T]:
    """Return so many models as they are made, with a bar of progress on a terminal."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        return list(progress.track(models, count, description=what))


def tell_others(repository: Path, family: str, names: Collection[str]) -> None:
    """Warn of models of a family beside those that were just written: they may be of older weights."""
    from export.repository.model_files import other_widths

    if others := other_widths(repository, family, names):
        click.echo(
            f"Warning: {repository} holds {', '.join(others)} of family {family} from before, which are served too; "
            "remove what is not of the same weights",
            err=True,
        )


def right_align(table: Table) -> None:
    """Let all columns but the first end at the right, and none wrap."""
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"


@click.command(
    cls=ExportCommand,
    context_settings=_DEFAULTS_SHOWN,
    short_help="Export each width to ONNX, proven to compute the same",
    epilog=_example("slimsched export runs/fashion/model.pt --repository model_repository --widths 0.25,0.5,0.75,1.0"),
)
@click.argument("checkpoint", type=_PATH)
@_network
@click.option(
    "--data", "dataset", type=_DATASET, help="Only for a state dict that another program trained: its images."
)
@_image_size
@repository_option
@_widths
@click.option("--family", help="Name of the models; the data set's if not given ('fashion' for fashion-mnist).")
@_data_dir
@tuning_options(click.option("--max-batch-size", type=click.IntRange(1, MAX_BATCH_SIZE), default=64))
def export(
    checkpoint: Path,
    dataset: str | None,
    image_size: int,
    repository: Path,
    widths: str,
    family: str | None,
    data_dir: Path,
    device: str,
    network: str | None,
    **tuning: int,
) -> None:
    """Cut each width out of CHECKPOINT, prove that its ONNX graph computes the same, and write the models."""
    parsed = parse_widths(widths)
    from export.family import default_family, describe_useless, prove_family
    from export.repository.model_config import Device, Tuning, model_name
    from export.repository.model_files import require_writable, write_models
    from export.training.checkpoint import load_checkpoint
    from export.training.datasets import load_images
    from export.training.pretrained import trained_elsewhere

    require_writable(repository)
    if dataset is None:
        loaded = load_checkpoint(checkpoint, network)
        loaded.require_widths(parsed)
        images = _test_images(loaded, data_dir)
    elif network is None:
        raise ExportError("--data is for a state dict that another program trained; give the --network that it fits")
    else:
        images = load_images(dataset, data_dir, train=False, image_size=image_size)
        loaded = trained_elsewhere(checkpoint, network, parsed, images.spec)
    family = family or default_family(loaded.images.name)
    model_name(family, parsed[0])
    proven = prove_family(loaded, parsed, images, family=family, tuning=Tuning(Device(device), **tuning))
    models = make_all("exporting and comparing", proven, len(parsed))
    for warning in describe_useless(models):
        click.echo(f"Warning: {warning}", err=True)
    changed = write_models(repository, {model.identity.name: model.files for model in models})
    tell_others(repository, models[0].identity.family, changed)
    Console().print(_export_table(models, changed, f"{repository}: {len(images)} test images compared"))


def _test_images(checkpoint: Checkpoint, data_dir: Path) -> ImageSet:
    from export.training.datasets import load_images

    return load_images(checkpoint.images.name, data_dir, train=False, image_size=checkpoint.images.height)


def _export_table(models: list[ProvenModel], changed: dict[str, bool], title: str) -> Table:
    table = Table("model", "width", "KiB", "PyTorch %", "ONNX %", "max diff", "files", title=title)
    for model in models:
        parity = model.parity
        table.add_row(
            model.identity.name,
            render_ratio(model.identity.width),
            f"{sum(map(len, model.files.values())) / 1024:.0f}",
            f"{100 * parity.accuracy_pytorch:.2f}",
            f"{100 * parity.accuracy_onnx:.2f}",
            f"{parity.max_abs_diff:.1e}",
            "written" if changed[model.identity.name] else "unchanged",
        )
    right_align(table)
    return table


@click.command(
    cls=ExportCommand,
    context_settings=_DEFAULTS_SHOWN,
    short_help="Check the models of a repository",
    epilog=_example("slimsched verify model_repository --checkpoint runs/fashion/model.pt"),
)
@click.argument("repository", type=_PATH)
@click.option("--fleet", "fleet_path", type=_PATH, help="A fleet file whose 'families' describe models in it.")
@_network
@click.option("--checkpoint", type=_PATH, help="Compare with this network too; needs the export extra.")
@_data_dir
def verify(
    repository: Path, fleet_path: Path | None, network: str | None, checkpoint: Path | None, data_dir: Path
) -> None:
    """Check the models in REPOSITORY: hashes, configurations, shapes, and with --checkpoint what they compute.

    A model is judged by where it came from: exported here, imported, or described by hand, in its configuration or in
    the fleet file.
    """
    from export.repository.routing import DescribedFleet, read_fleet
    from export.repository.verification import Severity, verify_repository

    verification = verify_repository(repository, read_fleet(fleet_path) if fleet_path else DescribedFleet())
    findings = list(verification.findings)
    if checkpoint is not None:
        from export.family import verify_against
        from export.training.checkpoint import load_checkpoint

        loaded = load_checkpoint(checkpoint, network)
        findings += verify_against(loaded, repository, verification, _test_images(loaded, data_dir))
    Console().print(_verify_table(verification, findings))
    for finding in findings:
        click.echo(f"{finding.severity}: {finding.model}: {finding.message}")
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if not errors:
        click.echo("What was checked is as it was written.")
    else:
        raise click.ClickException(f"{repository} has {errors} error{'s' * (errors > 1)}; see above")


def _verify_table(verification: Verification, findings: list[Finding]) -> Table:
    table = Table("model", "origin", "width", "quality", "MFLOPs", "errors", "notes")
    for model in verification.models:
        severities = [finding.severity.value for finding in findings if finding.model == model.name]
        known = model.identity
        table.add_row(
            model.name,
            model.origin or "-",
            render_ratio(Width(known.width)) if known else "-",
            f"{known.accuracy:g}" if known else "-",
            f"{known.flops / 1e6:.2f}" if known and known.flops is not None else "-",
            str(severities.count("error")),
            str(severities.count("note")),
        )
    right_align(table)
    return table
