from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from benchmarks.controller.claims import draw_claims
from benchmarks.controller.page import make_page
from benchmarks.controller.picture import draw_picture, typical
from benchmarks.controller.results import Results
from benchmarks.harness.run import parse_run
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown
from tests.benchmarks.controller import runs

PICTURE_LIMIT_BYTES = 150_000
WHAT = "controller's benchmark"


def render_json(run: Results) -> str:
    return json.dumps(run.encode_with(draw_claims(run)))


def render_page(run: Results, *, picture: str | None) -> str:
    return render_markdown(make_page(run, picture))


def test_json_gives_the_run_back() -> None:
    values = json.loads(render_json(runs.full()))
    assert parse_run(Results, values["raw"], WHAT) == runs.full()


def test_json_holds_each_claim_and_whether_it_is_met() -> None:
    values = json.loads(render_json(runs.results(kills=runs.kills(None))))
    assert values["claims"] == [
        {
            "name": "back to plan after kill -9 of a stub, slowest of 1",
            "value": None,
            "unit": "s",
            "bar": 15.0,
            "bar_is": "at most",
            "interval": None,
            "met": False,
        }
    ]
    assert values["machine"]["cpus"] == 2
    assert values["versions"] == {"python": "3.11"}


def test_a_scenario_that_was_taken_again_takes_the_place_of_the_old_one_and_the_page_says_so() -> None:
    again = replace(runs.results(kills=runs.kills(None)), taken_at="later")
    run = replace(runs.full(), failures={"kills": "no", "cost": "none"}).taken_from(again, ["kills"])
    assert run.kills == again.kills
    assert run.budget == runs.full().budget
    assert run.failures == {"cost": "none"}
    assert run.taken_again == {"kills": "later"}
    assert "`kills` was taken again, alone, at later" in render_page(run, picture=None)


def test_something_else_is_no_run() -> None:
    with pytest.raises(ConfigError, match="no run of the controller's benchmark"):
        parse_run(Results, {"taken_at": 1}, WHAT)


def test_the_page_shows_claims_numbers_and_machine() -> None:
    page = render_page(runs.full(), picture="controller.png")
    assert "## Claims: 14 of 14 met" in page
    assert "](controller.png)" in page
    assert "a processor, 2 CPUs, 24 GiB" in page
    assert "| 64 | 2 | 100 | 30.0 ms | 30.0 ms | 60.0 ms | 0.50 |" in page
    assert "| load | a_w075 | memory-budget | 118 |" in page
    assert "a_w025 + a_w050 → none" in page
    assert "+3.0 MiB" in page


def test_a_failing_claim_and_a_failed_scenario_stand_out() -> None:
    run = replace(runs.results(kills=runs.kills(None)), failures={"cost": "no slimsched"})
    page = render_page(run, picture=None)
    assert "## Claims: 0 of 1 met" in page
    assert "| none | ≤ 15 | s | **not met** |" in page
    assert "**cost has no numbers:** no slimsched" in page
    assert "![" not in page


def test_every_table_has_as_many_cells_as_its_head() -> None:
    lines = render_page(runs.full(), picture=None).splitlines()
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert line.count("|") == before.count("|"), line


@pytest.mark.filterwarnings("default")
def test_the_picture_is_small() -> None:
    picture = draw_picture(runs.full())
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < PICTURE_LIMIT_BYTES
    assert draw_picture(runs.results(cost=runs.cost())) is None


def test_the_picture_shows_the_median_repetition() -> None:
    repetitions = [runs.repetition(controlled_s=c) for c in (0.3, 0.1, 0.2)]
    assert typical(runs.rising(*repetitions)).controlled.p99_s == 0.2
