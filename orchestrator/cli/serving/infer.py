"""``slimsched infer``: images through the router, answers on the terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator.cli.options import PATH, fleet_option
from orchestrator.config import FleetSettings, load_fleet
from orchestrator.images import read_image, softmax
from orchestrator.router import Answer, Router
from orchestrator.snapshot import Width


@click.command()
@fleet_option
@click.option("--family", help="Which family; needed when the fleet serves several.")
@click.option("--deadline-ms", type=click.FloatRange(min=0, min_open=True), help="When the answer should be there.")
@click.option("--min-accuracy", type=click.FloatRange(0, 1), help="Only widths of at least this top-1 accuracy.")
@click.option("--width", type=click.IntRange(1, 100), help="Only this width, in percent.")
@click.option("--resize", is_flag=True, help="Scale images to the network's input size.")
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
    """Classify IMAGES and show what was decided for each; an answer after the deadline is shown, and said to be late.

    \b
    Example:
      slimsched local up --servers 2 --fleet fleet.yaml
      slimsched infer --fleet fleet.yaml --deadline-ms 50 examples/fashion-mnist/images/*.png
    """
    settings = _answering_late(load_fleet(fleet_path))

    async def run() -> list[Answer]:
        async with Router.from_fleet(settings) as router:
            spec = router.models(family)[0].inputs[0]
            pixels = [read_image(path, spec, resize=resize) for path in images]
            pinned = None if width is None else Width(width)
            return await asyncio.gather(
                *(
                    router.infer(p, deadline_ms=deadline_ms, min_accuracy=min_accuracy, width=pinned, family=family)
                    for p in pixels
                )
            )

    rows = [_row(path, answer) for path, answer in zip(images, asyncio.run(run()), strict=True)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        Console().print(_table(rows))


def _answering_late(fleet: FleetSettings) -> FleetSettings:
    """Return a fleet whose router gives every answer: who classifies images wants all of them."""
    overload = fleet.router.overload.model_copy(update={"shed_late": False})
    return fleet.model_copy(update={"router": fleet.router.model_copy(update={"overload": overload})})


def _row(path: Path, answer: Answer) -> dict[str, Any]:
    probabilities = softmax(answer.output)
    best = int(probabilities.argmax())
    return {
        "image": str(path),
        "label": answer.labels[best] if best < len(answer.labels) else str(best),
        "confidence": round(float(probabilities[best]), 4),
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
            row["label"],
            f"{row['confidence']:.1%}",
            f"{row['width']} %",
            row["server"],
            str(row["batch"]),
            f"{row['latency_ms']:.1f} ms" + ("" if row["deadline_met"] else " (late)"),
        )
    return table
