"""Policies of other packages in evaluations and tuning."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation.campaign import Records
from orchestrator.evaluation.cases import make_entry
from orchestrator.evaluation.runs import Cell, run_cell
from orchestrator.evaluation.tuning.campaign import Extent, try_all
from orchestrator.evaluation.tuning.space import check_tuned, configurations, tuned_policies
from orchestrator.policies.parsing import parse_policy
from orchestrator.snapshot import Width
from tests.evaluation.example_suites import digest_of, write_suite
from tests.plugged import SAVER, install

STATEFUL = """

class Counting(Saver):
    asked = 0

    def choose(self, candidates, situation):
        object.__setattr__(self, "asked", self.asked + 1)
        if self.asked > 400:
            raise RuntimeError("it was not made anew")
        return super().choose(candidates, situation)
"""


@pytest.fixture(autouse=True)
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"saver": "Saver", "counting": "Counting", "thrift": "Saver"}
    install(tmp_path, "saver_evaluated", SAVER + STATEFUL, points)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "scenarios", stems=("calm",)) / "test" / "own" / "calm.yaml"


def test_a_suite_runs_it_and_times_no_decision_on_tables(scenario: Path) -> None:
    entry = make_entry("saver", "saver,share=0.25")
    assert entry.identity.startswith("saver,share=0.25 saver_evaluated 1.0 ")  # another version decides otherwise
    result = run_cell(Cell(digest_of(scenario), scenario, 300, entry, 0, 2, True))
    assert len(result.runs) == 1  # it draws no random numbers
    assert result.decision_s is None
    assert result.timeline is not None
    other = run_cell(Cell(digest_of(scenario), scenario, 300, make_entry("saver", "saver,share=1"), 0, 1, False))
    assert other.runs[0].figures != result.runs[0].figures


@pytest.mark.parametrize("is_folder", [False, True], ids=["a_module", "a_package"])
def test_a_policy_whose_sources_were_edited_is_another_one(
    is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "edited"
    (installed / "edited_saver").mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    if is_folder:
        install(installed, "unused", SAVER, {"edited": "Saver"})
        (installed / "unused-1.0.dist-info" / "entry_points.txt").write_text(
            "[slimsched.policies]\nedited = edited_saver.inside:Saver\n"
        )
        (installed / "edited_saver" / "__init__.py").touch()
        (installed / "edited_saver" / "inside.py").write_text(SAVER)
        source = installed / "edited_saver" / "helper.py"
    else:
        install(installed, "edited_alone", SAVER, {"edited": "Saver"})
        source = installed / "edited_alone.py"
    before = make_entry("edited", "edited").identity
    assert make_entry("edited", "edited").identity == before
    source.write_text(SAVER + "# mended\n")
    assert make_entry("edited", "edited").identity != before


def test_each_run_has_one_of_its_own_that_remembers_nothing(scenario: Path) -> None:
    cell = Cell(digest_of(scenario), scenario, 300, make_entry("counting", "counting"), 0, 2, False)
    first, second = run_cell(cell), run_cell(cell)
    assert first.runs == second.runs


def test_it_is_tuned_over_its_own_knobs_when_it_is_named(scenario: Path) -> None:
    assert "saver" not in tuned_policies()
    check_tuned(["saver"])
    with pytest.raises(ConfigError, match="none that is tuned"):
        check_tuned(["saver,share=1"])
    specs = configurations("saver", [Width(25)], 9, seed=3)
    assert specs[0] == "saver"
    shares = [getattr(parse_policy(spec), "share", None) for spec in specs[1:]]
    assert len(set(shares)) == 8
    assert all(share is not None and 0.1 <= share <= 1.0 for share in shares)
    with Records(scenario.with_suffix(".partial"), seeds=1, resume=True) as records:
        (trials,) = try_all([scenario], ["saver"], Extent(budget=3, traces=1, requests=200, seed=0), records).values()
    assert [trial.spec.partition(",")[0] for trial in trials] == ["saver"] * 3


def test_ours_is_tuned_where_a_package_has_taken_its_name() -> None:
    assert "slack_margin" in configurations("thrift", [Width(25)], 2, seed=0)[1]
