"""A fitted policy on real servers: claims, what is fitted to, and the page; the run is ``make bench-fitted``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fitted
from benchmarks.fitted import CELLS, DEFAULT, FITTED, KEPT, TAKEN, Row, about, draw_claims, gain, make_page
from benchmarks.harness.machine import Machine
from benchmarks.harness.rows import Taken
from orchestrator.loadgen.plan import arrivals_s
from orchestrator.reporting.blocks import render_markdown
from orchestrator.reporting.journal import Journal

MACHINE = Machine("a processor", 2, 8 << 30, "Linux 6", load_before=0.1)
SOME = list(CELLS)[:6]
CROWDED = "gamma:8, 1.2 times"


def rows(gains: dict[str, float], joules: float = 2.0) -> list[Row]:
    return [
        Row(name, cell, number, 0.8 + 0.01 * number + (own if name == FITTED else 0.0), 0.9, energy_j)
        for cell, own in gains.items()
        for number in (0, 1, 2)
        for name, energy_j in ((DEFAULT, 2.0), (FITTED, joules))
    ]


def test_a_gain_is_taken_within_rounds() -> None:
    found = gain(rows(dict.fromkeys(SOME, 0.02)), SOME[0], "right_in_time")
    assert found.value == pytest.approx(0.02)
    assert found.most == pytest.approx(found.least)  # the machine was better for both from round to round


def test_half_of_all_cells_must_be_better_and_cells_that_kept_the_default_are_not() -> None:
    worst, better = draw_claims(rows(dict.fromkeys(SOME, 0.02)))
    assert (worst.is_met, better.is_met) == (True, True)
    assert better.value == pytest.approx(6 / 9)
    _, few = draw_claims(rows(dict.fromkeys(SOME[:4], 0.02)))
    assert not few.is_met
    _, cheaper = draw_claims(rows(dict.fromkeys(SOME, 0.0), joules=1.5))
    assert cheaper.is_met
    _, none = draw_claims([])
    assert not none.is_met


def test_one_cell_that_is_worse_is_one_too_many() -> None:
    worst, _ = draw_claims(rows({**dict.fromkeys(SOME, 0.02), SOME[0]: -0.006}))
    assert worst.value == pytest.approx(0.6)
    assert not worst.is_met
    better_elsewhere, _ = draw_claims(rows({**dict.fromkeys(SOME, 0.2), SOME[0]: -0.004}))
    assert better_elsewhere.is_met


async def test_a_fit_gets_arrivals_that_no_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []

    async def run(*command: str, log: Path) -> None:
        commands.append(command)

    monkeypatch.setattr(fitted, "run_slimsched", run)
    load = fitted._load(CROWDED, 100.0, 4.0)
    assert await fitted._fit(tmp_path, 2, CROWDED, load, 0.5, print) is None  # it promoted nothing
    times_s = np.loadtxt(tmp_path / "arrivals-2.txt")
    assert len(times_s) == pytest.approx(1.2 * 100 * 150, rel=0.2)
    measured = [arrivals_s(replace(load, seed=number)) for number in range(20)]
    assert not any(np.allclose(times_s[: len(own)], own, atol=1e-5) for own in measured)
    assert {"--arrivals", "--energy-weight"} <= set(commands[0])
    (tmp_path / "fitted-2.npz").touch()
    (tmp_path / "fitted-2.json").touch()
    assert await fitted._fit(tmp_path, 2, CROWDED, load, 0.5, print) == tmp_path / "fitted-2.npz"
    assert len(commands) == 1  # what was fitted before is not fitted again


def test_the_page_tells_each_cell_and_where_the_default_was_kept(tmp_path: Path) -> None:
    path, taken = tmp_path / "journal.jsonl", Taken(about(MACHINE, 4.0, 0.5), Row)
    with Journal(path, taken.replay, remedy="remove it") as journal:
        taken.begin(100.0, journal)
        for row in rows(dict.fromkeys(SOME, 0.02), joules=1.5):
            taken.add(row, journal)
    again = Taken(about(MACHINE, 4.0, 0.5), Row)
    Journal(path, again.replay, remedy="remove it")
    assert [asdict(row) for row in again.rows] == [asdict(row) for row in taken.rows]
    outcomes = {**dict.fromkeys(CELLS, KEPT), **dict.fromkeys(SOME, TAKEN), CROWDED: "returned: surely worse"}
    page = render_markdown(list(make_page(again, outcomes, list(draw_claims(again.rows)), MACHINE)))
    assert "| steady, 0.3 times | 81.00 | 83.00 | +2.00 ± 0.00 | 2.00 | 1.50 | -0.50 ± 0.00 |" in page
    assert page.count("| the default | 0 |") == 2 * 3
    assert f"Not taken: {CROWDED}: returned: surely worse." in page
