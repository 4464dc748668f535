"""The benchmark's arithmetic and its page; the run itself is ``make bench-overhead``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.harness.machine import Machine
from benchmarks.harness.run import parse_run
from benchmarks.overhead.__main__ import WHAT, main
from benchmarks.overhead.cells import Results, Sample, Way
from benchmarks.overhead.page import make_page
from benchmarks.overhead.rows import LOADS, draw_rows
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown

P50_S = {Way.RAW: 1.0, Way.ROUTER: 1.05, Way.DIRECT: 0.9, Way.ENVOY: 1.0, Way.GATEWAY: 1.2}
RATES = {Way.RAW: 1000.0, Way.ROUTER: 2500.0, Way.DIRECT: 1100.0, Way.ENVOY: 1000.0, Way.GATEWAY: 1000.0}


def sample(way: Way, load_index: int, factor: float = 1.0) -> Sample:
    load = LOADS[load_index]
    proxy = 1e-4 if way in (Way.ENVOY, Way.GATEWAY) else None
    p50_s = P50_S[way] * factor
    return Sample(way, load.concurrency, load.width, RATES[way] * factor, p50_s, 2 * p50_s, 3e-4, proxy, 1e-4)


def run(rounds: int = 3) -> Results:
    # The middle round is what counts; the others are far off, on either side.
    factors = (0.1, 1.0, 10.0)[:rounds]
    samples = tuple(sample(way, i, f) for f in factors for i, load in enumerate(LOADS) for way in load.ways)
    machine = Machine("a CPU", 2, 2**33, "Linux 6", 0.1)
    return Results(
        taken_at="2026-01-01T00:00:00+00:00",
        took_s=60.0,
        machine=machine,
        versions={"python": "3.11"},
        rounds=rounds,
        samples=samples,
    )


def test_the_rows_are_ratios_of_medians_against_their_bars() -> None:
    rows = draw_rows(run())
    assert [row.value for row in rows] == pytest.approx([1.05, 2.5, 1.2, 1.0, 1.0])
    assert [row.is_met for row in rows] == [True, True, False, True, True]
    assert [row.is_floor for row in rows] == [False, True, False, True, True]


def test_what_was_not_measured_is_not_met() -> None:
    found = run()
    lacking = replace(found, samples=tuple(s for s in found.samples if s.way is not Way.ENVOY))
    assert [row.value is None for row in draw_rows(lacking)] == [False, False, True, True, True]
    assert [row.is_met for row in draw_rows(lacking)][2:] == [False] * 3


def test_a_run_comes_back_from_its_json() -> None:
    found = run()
    values = json.loads(json.dumps(found.encode_with(draw_rows(found), key="rows")))
    assert parse_run(Results, values["raw"], WHAT) == found
    with pytest.raises(ConfigError, match=r"no run of the overhead benchmark \(samples"):
        parse_run(Results, {**found.encode(), "samples": [{}]}, WHAT)


def test_page_and_report_show_what_is_met(tmp_path: Path) -> None:
    page = render_markdown(make_page(run()))
    assert "Claims: 4 of 5 met" in page
    assert "| gateway over Envoy, p50, concurrency 1, width 25 % | 1.20 | ≤ 1.15 | ratio | **not met** |" in page
    assert "| gateway | 1000 [100–10000] |" in page
    source, out, short = tmp_path / "run.json", tmp_path / "out", tmp_path / "deep" / "report.json"
    source.write_text(json.dumps(run().encode_with(draw_rows(run()), key="rows")))
    again = CliRunner().invoke(main, ["--from", str(source), "--out", str(out), "--report", str(short)])
    assert again.exit_code == 1, "a bar is missed"
    assert "NOT MET  gateway over Envoy, p50" in again.output
    report = json.loads(short.read_text())
    assert [row["met"] for row in report["rows"]] == [True, True, False, True, True]
    assert (report["machine"]["cpu"], report["rounds"]) == ("a CPU", 3)
    assert "raw" not in report
    assert (out / "overhead.md").read_text() == page
    assert json.loads((out / "overhead.json").read_text()) == json.loads(source.read_text())
