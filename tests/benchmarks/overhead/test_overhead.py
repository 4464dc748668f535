"""The benchmark's arithmetic, its page, and the readings it takes; the run itself is ``make bench-overhead``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.controller.results import Machine
from benchmarks.overhead.cells import Results, Sample, Way, encode_results, parse_results
from benchmarks.overhead.opponents import render_envoy
from benchmarks.overhead.page import render_json, render_page, render_report
from benchmarks.overhead.processes import Reading, read_cpu
from benchmarks.overhead.rows import LOADS, draw_rows
from orchestrator.errors import ConfigError

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
    return Results("2026-01-01T00:00:00+00:00", 60.0, machine, {"python": "3.11"}, rounds, samples)


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
    assert parse_results(json.loads(json.dumps(encode_results(found)))) == found
    assert parse_results(json.loads(render_json(found))["raw"]) == found
    with pytest.raises(ConfigError, match="samples"):
        parse_results({**encode_results(found), "samples": [{}]})


def test_page_and_report_tell_what_is_met() -> None:
    page = render_page(run())
    assert "Bars: 4 of 5 met" in page
    assert "| gateway over Envoy, p50, concurrency 1, width 25 % | 1.20 | at most 1.15 | **not met** |" in page
    assert "| gateway | 1000 [100–10000] |" in page
    report = json.loads(render_report(run()))
    assert [row["met"] for row in report["rows"]] == [True, True, False, True, True]
    assert report["machine"]["cpu"] == "a CPU"


def test_processor_time_is_read_with_the_childrens() -> None:
    burn = (
        "import time, sys; end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\n"
        "print(flush=True); sys.stdin.read()"
    )
    shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, burn]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reading = read_cpu({"tree": process.pid, "gone": 2**22 + 1, "me": os.getpid()})
        process.communicate()
    assert reading.cpu_s["tree"] >= 0.19
    assert reading.cpu_s["gone"] == 0
    assert reading.cpu_s["me"] >= reading.cpu_s["tree"]


def test_shares_are_of_one_core() -> None:
    shares = Reading(1.0, {"a": 5.0}).shares_until(Reading(3.0, {"a": 8.0}))
    assert shares == {"a": pytest.approx(1.5)}


def test_envoy_spreads_over_all_servers() -> None:
    config = render_envoy(1, [("127.0.0.1", 2), ("127.0.0.1", 3)])["static_resources"]
    (cluster,) = config["clusters"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
