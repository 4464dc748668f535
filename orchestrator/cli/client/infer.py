"""``slimsched infer``: images through the router, answers on the terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator.cli.options import PATH, FiniteRange, fleet_option
from orchestrator.config import FleetSettings, load_fleet
from orchestrator.errors import ConfigError
from orchestrator.images import read_arrays, read_image, softmax
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ServedModel, Width


@click.command()
@fleet_option
@click.option("--family", help="Which family; needed when the fleet serves several.")
@click.option("--deadline-ms", type=FiniteRange(min=0, min_open=True), help="When the answer should be there.")
@click.option(
    "--min-accuracy", type=FiniteRange(), help="Only widths of at least this quality, such as a top-1 of 0.9."
)
@click.option("--width", type=click.IntRange(1, 100), help="Only this width, in percent.")
@click.option("--resize", is_flag=True, help="Scale images to the input's size, where the family says nothing of it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line an image.")
@click.argument("images", nargs=-1, required=True, type=PATH)
def infer(
    fleet_path: Path,
    family: str | None,
    deadline_ms: float | None,
    min_accuracy: float | None,
    width: int | None,
    resize: bool,
    as_json: bool,
    images: tuple[Path, ...],
) -> None:
    """Ask a family for IMAGES and show what was decided for each; one after the deadline is shown, and said to be late.

    An image goes through what the family says of it: size, crop, colours, scale, mean and deviation. An .npz file in
    place of an image has the inputs of one item as arrays by name, for families that take something else. Where the
    first output is one score a class the best is shown; --json prints all outputs of other families, and null for a
    number that is not finite.

    \b
    Example:
      slimsched local up --servers 2 --fleet fleet.yaml
      slimsched infer --fleet fleet.yaml --deadline-ms 50 examples/fashion-mnist/images/*.png
    """
    settings = _answering_late(load_fleet(fleet_path))

    async def run() -> list[Answer]:
        async with Router.from_fleet(settings) as router:
            model = router.models(family)[0]
            items = [_read_item(path, model, resize=resize) for path in images]
            pinned = None if width is None else Width(width)
            return await asyncio.gather(
                *(
                    router.infer(each, deadline_ms=deadline_ms, min_accuracy=min_accuracy, width=pinned, family=family)
                    for each in items
                )
            )

    rows = [_row(path, answer) for path, answer in zip(images, asyncio.run(run()), strict=True)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, allow_nan=False))
    else:
        Console().print(_table(rows))


def _answering_late(fleet: FleetSettings) -> FleetSettings:
    """Return a fleet whose router gives every answer: who classifies images wants all of them."""
    overload = fleet.router.overload.model_copy(update={"shed_late": False})
    return fleet.model_copy(update={"router": fleet.router.model_copy(update={"overload": overload})})


def _read_item(path: Path, model: ServedModel, *, resize: bool) -> Mapping[str, Any]:
    """Return the inputs of one item, by name."""
    if path.suffix == ".npz":
        return read_arrays(path, model.inputs)
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise ConfigError(f"family {model.family} takes {names}; give a .npz file with these arrays instead of {path}")
    return {model.inputs[0].name: read_image(path, model.inputs[0], model.preprocessing, resize=resize)}


def describe_answer(answer: Answer) -> dict[str, Any]:
    """Return the best class of a classifier's answer, else all outputs."""
    scores = answer.output
    is_scores = len(answer.outputs) == 1 and scores.ndim == 1 and scores.dtype.kind == "f" and scores.size
    if is_scores and not np.isnan(probabilities := softmax(scores)).any():
        best = int(probabilities.argmax())
        label = answer.labels[best] if best < len(answer.labels) else str(best)
        return {"label": label, "confidence": round(float(probabilities[best]), 4)}
    return {"outputs": {name: _plain(array) for name, array in answer.outputs.items()}}


def _plain(array: Any) -> Any:
    """Return an array as JSON has it; text that is none in its escapes."""
    if array.dtype == object:
        array = np.array([value.decode(errors="backslashreplace") for value in array.flat], object).reshape(array.shape)
    elif array.dtype.kind == "f":
        is_finite, array = np.isfinite(array), array.astype(object)
        array[~is_finite] = None
    return array.tolist()


def _row(path: Path, answer: Answer) -> dict[str, Any]:
    return {
        "image": str(path),
        **describe_answer(answer),
        "width": answer.width,
        "server": answer.server,
        "batch": answer.batch,
        "latency_ms": round(answer.latency_s * 1e3, 2),
        "deadline_met": answer.deadline_met,
        "decision_id": answer.decision_id,
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "image", "label", "confidence", "width", "server", "batch", "latency", box=SIMPLE_HEAD, collapse_padding=True
    )
    for row in rows:
        table.add_row(
            Path(row["image"]).name,  # the whole path is in --json; here it would break the lines
            row["label"] if "label" in row else ", ".join(row["outputs"]),
            f"{row['confidence']:.1%}" if "confidence" in row else "",
            f"{row['width']} %",
            row["server"],
            str(row["batch"]),
            f"{row['latency_ms']:.1f} ms" + ("" if row["deadline_met"] else " (late)"),
        )
    return table
