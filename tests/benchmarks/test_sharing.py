"""A run of the benchmark of sharing goes on where it was interrupted, and no two runs are mixed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.harness.machine import Machine
from benchmarks.harness.rows import Taken
from benchmarks.sharing import APART, ONE, RATIOS, SHARING, Row, about, draw_claims, make_page
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown
from orchestrator.reporting.journal import Journal

MACHINE = Machine("a processor", 2, 8 << 30, "Linux 6", load_before=0.1)
IN_TIME = {ONE: 0.9, APART: 0.7} | dict.fromkeys(SHARING.values(), 0.895)


def write(path: Path, rows: list[Row], taken: Taken[Row]) -> None:
    with Journal(path, taken.replay, remedy="remove it") as journal:
        if journal.is_new:
            journal.write({**taken.about, "capacity_rps": 300.0})
        for row in rows:
            journal.write(asdict(row))


def test_what_a_journal_holds_is_taken_up_and_told_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "sharing.jsonl"
    rows = [
        Row(name, ratio, number, in_time) for number in (0, 1) for ratio in RATIOS for name, in_time in IN_TIME.items()
    ]
    write(path, rows[:7], Taken(about(MACHINE, 4.0), Row))
    busier = replace(MACHINE, load_before=0.7)
    write(path, rows[7:], Taken(about(busier, 4.0), Row))
    taken = Taken(about(busier, 4.0), Row)
    Journal(path, taken.replay, remedy="remove it")
    assert (taken.capacity_rps, taken.rows) == (300.0, rows)
    claims = list(draw_claims(taken.rows))
    assert [claim.value for claim in claims] == pytest.approx([0.5] * len(RATIOS) * len(SHARING))
    page = render_markdown(list(make_page(taken, claims, MACHINE)))
    assert "300 requests a second" in page
    assert "70.0 ± 0.0 %" in page


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sharing.jsonl"
    write(path, [], Taken(about(MACHINE, 4.0), Row))
    with pytest.raises(ConfigError, match=r"was begun with seconds = 4\.0, now it is 2\.0; remove it to begin anew"):
        Journal(path, Taken(about(MACHINE, 2.0), Row).replay, remedy="remove it")
