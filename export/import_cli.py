"""The command ``import``; it composes, the work is done in ``export.importing``.

As in ``export.cli`` nothing heavy is imported with this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from export.cli import (
    ExportCommand,
    find_modules_here,
    make_all,
    repository_option,
    right_align,
    tell_others,
    tuning_options,
)
from export.errors import VariantError
from export.limits import MAX_BATCH_SIZE
from export.width import Width, parse_percent, useless_widths

if TYPE_CHECKING:
    from export.importing.family import ImportedModel, Measurement, Qualities

_PATH = click.Path(path_type=Path)
_EXAMPLE = (
    "slimsched import --family plates --variant 30=small.onnx --variant 100=large.onnx --quality 30=0.61,100=0.74"
)


@click.command(
    name="import",
    cls=ExportCommand,
    context_settings={"show_default": True},
    short_help="Take ONNX files made elsewhere as one family of models",
    epilog=f"\b\nExample:\n  {_EXAMPLE}",
)
@click.option("--family", required=True, help="Name of the models.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    required=True,
    metavar="WIDTH=FILE",
    help="ONNX file of a width, in percent; repeat it.",
)
@click.option(
    "--quality",
    "qualities",
    multiple=True,
    metavar="WIDTH=NUMBER,...",
    help="Quality of each width, larger is better; or it is measured.",
)
@click.option("--data", type=_PATH, help="Labelled items (.npz) to measure the quality on.")
@click.option(
    "--metric",
    metavar="NAME",
    help="What to measure: top-K, mean-iou, map-50, mean-absolute-error or package.module:function.",
)
@click.option("--output", metavar="NAME", help="Output that metric and labels are about, where there are several.")
@click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=NEW",
    help="Another name for an input or output, in the variants that have it.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=DIM,DIM",
    help="Usual shape of an item where an input has free dims.",
)
@click.option(
    "--fill",
    "fills",
    multiple=True,
    metavar="INPUT=VALUE",
    help="What the item has instead of zeros that warm-up, probes and profiles run: a number, random (0..1), or the "
    ".npy file of an item.",
)
@click.option(
    "--preprocessing",
    metavar="KEY=VALUE,...",
    help="What an image file goes through: resize (of the shorter side), colours (RGB, BGR, L), layout (CHW, HWC), "
    "scale, and mean and std, one number or three with / between.",
)
@click.option("--labels", "labels_file", type=_PATH, help="Class names, a line each.")
@repository_option
@tuning_options(
    click.option("--max-batch-size", type=click.IntRange(0, MAX_BATCH_SIZE), default=64, help="0 serves unbatched.")
)
def import_(
    family: str,
    variants: tuple[str, ...],
    qualities: tuple[str, ...],
    data: Path | None,
    metric: str | None,
    output: str | None,
    renames: tuple[str, ...],
    shapes: tuple[str, ...],
    fills: tuple[str, ...],
    preprocessing: str | None,
    labels_file: Path | None,
    repository: Path,
    device: str,
    **tuning: int,
) -> None:
    """Write ONNX files that were made elsewhere, small to large, as one family of models.

    Nothing is written unless every variant loads, takes and gives the same, and has a quality.
    """
    files = {width: Path(path) for width, path in _by_width("--variant", variants).items()}
    from export.importing.family import Order, prove_import
    from export.importing.preprocessing import parse_preprocessing
    from export.importing.trial import read_fill
    from export.repository.model_config import Device, Tuning
    from export.repository.model_files import require_writable, write_models

    require_writable(repository)
    filled = {name: read_fill(name, text) for name, text in _pairs("--fill", fills).items()}
    shown = {name: shape for name, (_, shape) in filled.items() if shape is not None}
    order = Order(
        family=family,
        files=files,
        quality=_quality(files, qualities, data, metric, output),
        tuning=Tuning(Device(device), **tuning),
        renames=_pairs("--rename", renames),
        shapes={**shown, **{name: _shape(name, text) for name, text in _pairs("--shape", shapes).items()}},
        fills={name: fill for name, (fill, _) in filled.items()},
        labels=_labels(labels_file),
        output=output,
        preprocessing="" if preprocessing is None else parse_preprocessing(preprocessing),
    )
    models = make_all("running and measuring", prove_import(order), len(files))
    changed = write_models(repository, {model.identity.name: model.files for model in models})
    tell_others(repository, family, changed)
    Console().print(_import_table(models, changed, f"{repository}"))
    made = {model.identity.width: model.identity for model in models}
    for width, better in useless_widths({width: identity.accuracy for width, identity in made.items()}).items():
        click.echo(
            f"Warning: {made[width].name} has quality {made[width].accuracy:g}, no better than {made[better].name} "
            f"with {made[better].accuracy:g}; it costs memory for nothing: remove it from the repository",
            err=True,
        )


def _pairs(option: str, entries: Iterable[str]) -> dict[str, str]:
    """Return values by key; raises VariantError for an entry without ``=`` and for a key that comes twice."""
    found: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise VariantError(f"{option} {entry}: has not the form KEY=VALUE; see slimsched import --help")
        if key in found:
            raise VariantError(f"{option}: {key} is given twice, as {found[key]} and as {value}; give it once")
        found[key] = value
    return found


def _by_width(option: str, entries: Iterable[str]) -> dict[Width, str]:
    found: dict[Width, str] = {}
    for key, value in _pairs(option, entries).items():
        width = parse_percent(key)
        if width in found:  # as 30 and 030
            raise VariantError(
                f"{option}: width {width} is given twice, as {found[width]} and as {value}; give it once"
            )
        found[width] = value
    return found


def _quality(
    files: Mapping[Width, Path], qualities: tuple[str, ...], data: Path | None, metric: str | None, output: str | None
) -> Qualities | Measurement:
    if bool(qualities) == bool(data and metric) or bool(data) != bool(metric):
        raise VariantError("give either --quality with a number for each width, or --data and --metric to measure it")
    if data is None or metric is None:
        entries = [entry.strip() for text in qualities for entry in text.split(",")]
        given = {width: _number(width, text) for width, text in _by_width("--quality", entries).items()}
        if given.keys() != files.keys():
            have, need = (", ".join(map(str, sorted(widths))) for widths in (given, files))
            raise VariantError(f"--quality: has widths {have}, and the variants are {need}; give one for each")
        return given
    from export.importing.family import Measurement
    from export.importing.metrics import metric_named

    find_modules_here()
    return Measurement(metric_named(metric, output), data)


def _number(width: Width, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise VariantError(f"--quality {width}={text}: is no finite number; give one, larger is better")
    return float(f"{number:.6g}")


def _shape(name: str, text: str) -> tuple[int, ...]:
    dims = text.split(",")
    if not all(dim.isascii() and dim.isdecimal() and int(dim) > 0 for dim in dims):
        raise VariantError(f"--shape {name}={text}: give whole dims above 0, such as {name}=3,64,64")
    return tuple(map(int, dims))


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        # Of Windows too, with its mark in front; no other sign ends a line, as str.splitlines would have it.
        labels = tuple(path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as exc:
        raise VariantError(f"--labels {path}: can't read it ({exc}); give a text file with a line a class") from exc
    if not all(label.strip() for label in labels) or not labels:
        raise VariantError(f"--labels {path}: is empty or has an empty line; give a line a class")
    return labels


def _import_table(models: list[ImportedModel], changed: Mapping[str, bool], title: str) -> Table:
    table = Table("model", "quality", "MFLOPs", "MiB", "largest batch", "files", title=title)
    for model in models:
        identity = model.identity
        table.add_row(
            identity.name,
            f"{identity.accuracy:g}",
            f"{identity.flops / 1e6:.2f}",
            f"{sum(map(len, model.files.values())) / 2**20:.1f}",
            str(model.tuning.max_batch_size) if model.tuning.max_batch_size else "unbatched",
            "written" if changed[identity.name] else "unchanged",
        )
    right_align(table)
    return table
