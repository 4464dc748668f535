from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.harness.run import parse_run
from benchmarks.resilience.claims import draw_claims
from benchmarks.resilience.page import make_page
from benchmarks.resilience.picture import draw_picture
from benchmarks.resilience.results import Results
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown
from tests.benchmarks.resilience import runs

WHAT = "resilience benchmark"


def render_page(run: Results, *, picture: str | None) -> str:
    return render_markdown(make_page(run, picture))


def test_json_gives_the_run_back_and_holds_each_claim() -> None:
    values = json.loads(json.dumps(runs.results().encode_with(draw_claims(runs.results()))))
    assert parse_run(Results, values["raw"], WHAT) == runs.results()
    assert values["claims"][0] == {
        "name": "death: requests lost, deadline 1 s",
        "value": 0,
        "unit": "",
        "bar": 0,
        "bar_is": "at most",
        "interval": None,
        "met": True,
    }


def test_something_else_is_no_run() -> None:
    with pytest.raises(ConfigError, match="no run of the resilience benchmark"):
        parse_run(Results, {"taken_at": 1}, WHAT)


def test_a_scenario_that_was_taken_again_takes_the_place_of_the_old_one() -> None:
    worse = runs.outage(lost={"answered late": 2}, answered=5198)
    again = runs.results(outages={"death": worse}, burst=None, soak=None, taken_at="later")
    run = runs.results(failures={"death": "no", "soak": "none"}).taken_from(again, ["death"])
    assert (run.outages, run.burst, run.failures) == ({"death": worse}, runs.burst(), {"soak": "none"})
    assert "`death` was taken again, alone, at later" in render_page(run, picture=None)


def test_the_page_shows_what_was_lost_and_what_has_no_numbers() -> None:
    worse = runs.outage(lost={"answered late": 2}, examples=("ok: too late",))
    page = render_page(runs.results(outages={"death": worse}, failures={"hang": "TimeoutError"}), picture="r.png")
    assert "| death | 5,200 | 2 answered late | 0 | 0 | 5 |" in page
    assert "- ok: too late" in page
    assert "**hang has no numbers:** TimeoutError" in page
    assert "](r.png)" in page
    assert "| requests lost" not in page
    assert "**not met**" in page


def test_the_picture_shows_what_there_is() -> None:
    picture = draw_picture(runs.results())
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert draw_picture(replace(runs.results(), outages={}, burst=None, soak=None)) is None
