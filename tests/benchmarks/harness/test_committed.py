"""The runs that are committed can be read, hold what they claim, and their pages show no figure less when made anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import families, tracing
from benchmarks.controller.__main__ import BENCHMARK as CONTROLLER
from benchmarks.harness.run import Run, parse_run
from benchmarks.overhead.cells import Results as Overhead
from benchmarks.overhead.page import make_page
from benchmarks.overhead.rows import draw_rows
from benchmarks.resilience.__main__ import BENCHMARK as RESILIENCE
from benchmarks.restarts.cells import Results as Restarts
from benchmarks.restarts.cells import draw_claims as draw_restart_claims
from benchmarks.restarts.page import make_page as make_restarts_page
from orchestrator.reporting.blocks import Block, render_markdown
from orchestrator.reporting.claim import Claim

FOLDER = Path(__file__).parents[3] / "docs" / "benchmarks"
Draw = Callable[[Any], Sequence[Claim]]
Make = Callable[[Any], Iterable[Block]]


@pytest.mark.parametrize(
    ("stem", "kind", "key", "draw", "make"),
    [
        (each.stem, each.results, "claims", each.draw_claims, lambda run, b=each: b.make_page(run, "picture.png"))
        for each in (CONTROLLER, RESILIENCE)
    ]
    + [("overhead", Overhead, "rows", draw_rows, make_page)]
    + [("restarts", Restarts, "claims", draw_restart_claims, make_restarts_page)]
    + [
        (
            stem,
            each.Results,
            "claims",
            lambda run, b=each: list(b.draw_claims(run)),
            lambda run, b=each: b.make_page(run, list(b.draw_claims(run))),
        )
        for stem, each in (("families", families), ("tracing", tracing))
    ],
)
def test_a_committed_run_is_whole(stem: str, kind: type[Run], key: str, draw: Draw, make: Make) -> None:
    document = json.loads((FOLDER / f"{stem}.json").read_text())
    run = parse_run(kind, document["raw"], stem)
    claims = draw(run)
    assert [(claim["name"], claim["met"]) for claim in document[key]] == [(c.name, c.is_met) for c in claims]
    again = json.loads(json.dumps(run.encode_with(claims, key=key)))
    assert document["raw"].items() <= again["raw"].items()
    assert document.keys() <= again.keys()
    # A bar may be written with other decimals.
    figures = {float(text.replace(",", "")) for text in _figures((FOLDER / f"{stem}.md").read_text())}
    assert figures <= {float(text.replace(",", "")) for text in _figures(render_markdown(make(run)))}


def _figures(page: str) -> list[str]:
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", page)
