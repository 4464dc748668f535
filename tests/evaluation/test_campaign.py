from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation.campaign import Records, list_cells, run_campaign
from orchestrator.evaluation.cases import VALIDATION_SEEDS, Case, Extent, plan_cases
from orchestrator.evaluation.runs import Cell, run_cell
from orchestrator.evaluation.scores import UTILITY, score_cases
from orchestrator.executors import open_executor
from tests.evaluation.example_suites import write_suite

POLICIES = ("random", "lert:slack", "achq")
EXTENT = Extent(traces=2, validation_traces=1, seeds=3, requests=200)


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    return plan_cases("own", POLICIES, write_suite(tmp_path / "scenarios"), EXTENT)


def run(cases: tuple[Case, ...], path: Path, *, resume: bool = False, processes: int = 1) -> Records:
    records = Records(path, seeds=EXTENT.seeds, resume=resume)
    with records, open_executor(processes=processes) as execute:
        run_campaign(cases, records, seeds=EXTENT.seeds, execute=execute)
    return records


def test_validation_cases_have_the_names_of_test_cases_and_traces_of_their_own(cases: tuple[Case, ...]) -> None:
    assert [case.key for case in cases] == ["test/calm", "test/wild", "validation/calm", "validation/wild"]
    assert cases[0].traces == (0, 1)
    assert cases[2].traces == (VALIDATION_SEEDS,)
    assert cases[0].digest != cases[2].digest


def test_what_draws_random_numbers_is_run_with_every_seed_and_everything_else_once(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    results = run(cases, tmp_path / "journal").results
    firsts, others = list_cells(cases, EXTENT.seeds)
    assert set(results) == {cell.key for cell in firsts + others}
    assert {len(r.runs) for (_, label, _), r in results.items() if label == "random"} == {3}
    assert {len(r.runs) for (_, label, _), r in results.items() if label == "lert:slack"} == {1}
    seeds = [run.figures["mean_s"] for run in results[cases[0].digest, "random", 0].runs]
    assert len(set(seeds)) == 3
    timed = results[cases[0].digest, "lert:slack", 0]
    assert timed.timeline is not None
    assert timed.decision_s is not None
    assert 0 < timed.decision_s[0] <= timed.decision_s[1]
    assert results[cases[0].digest, "lert:slack", 1].timeline is None


def test_policies_meet_the_same_arrivals_and_a_cell_is_the_same_whenever_it_is_run(cases: tuple[Case, ...]) -> None:
    case = cases[0]
    cells = [Cell(case.digest, case.path, case.requests, c, 5, 1, False) for c in case.entries]
    first = [run_cell(cell).runs for cell in cells]
    assert [run_cell(cell).runs for cell in cells] == first
    assert first[0] != first[1]


def test_an_interrupted_run_goes_on_where_it_was_and_ends_the_same(cases: tuple[Case, ...], tmp_path: Path) -> None:
    whole = run(cases, tmp_path / "whole")
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    partial = tmp_path / "partial"
    partial.write_text("".join(lines[:6]) + lines[6][:40])  # cut off in the middle of a line
    resumed = run(cases, partial, resume=True)
    assert {key: result.runs for key, result in resumed.results.items()} == {
        key: result.runs for key, result in whole.results.items()
    }
    kept = partial.read_text().splitlines(keepends=True)
    assert kept[:6] == lines[:6]
    again = Records(partial, seeds=EXTENT.seeds, resume=True)
    assert {key: r.runs for key, r in again.results.items()} == {key: r.runs for key, r in whole.results.items()}


def test_a_journal_serves_who_comes_with_more_policies_and_not_who_comes_with_another_scenario(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    few = [replace(case, entries=case.entries[1:2]) for case in cases]
    path = tmp_path / "journal"
    run(tuple(few), path)
    before = path.read_text()
    more = run(cases, path, resume=True)
    assert path.read_text().startswith(before)
    assert len(more.results) == len({cell.key for cells in list_cells(cases, 3) for cell in cells})
    other = plan_cases("own", POLICIES, tmp_path / "scenarios", replace(EXTENT, requests=100))[:1]
    assert len(run(other, path, resume=True).results) == len(more.results) + 2 * len(POLICIES)


def test_a_scenario_or_a_policy_that_is_another_where_it_runs_is_refused(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    case = cases[0]
    entry = replace(case.entries[1], identity="of another file")
    for other, problem in (
        (replace(case, digest="other"), "calm.yaml has changed, or is another one on this machine"),
        (replace(case, entries=(entry,)), "the file of lert:slack has changed"),
    ):
        with pytest.raises(ConfigError, match=problem):
            run((other,), tmp_path / other.digest)


def test_how_many_processes_there_are_changes_nothing(cases: tuple[Case, ...], tmp_path: Path) -> None:
    few = cases[:1]
    alone, together = run(few, tmp_path / "alone"), run(few, tmp_path / "together", processes=2)
    one, other = score_cases(few, alone.results)[0], score_cases(few, together.results)[0]
    for label in POLICIES:
        for name in (UTILITY, "p99_s", "joules_per_answer"):
            assert list(one.scores[label].figures[name]) == list(other.scores[label].figures[name])


def test_a_journal_without_a_run_is_begun_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with Records(tmp_path / "journal", seeds=3, resume=False) as records:
            assert records.results == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace('"seeds":3', '"seeds":2', 1), "begun with seeds 2, now it is 3"),
        (lambda text: text.replace('"cell"', '"sell"', 1), "line 2 is damaged"),
        (lambda text: text.replace('"version":1', '"version":0', 1), "begun with version 0"),
        (lambda text: text.replace('"code":"', '"code":"x', 1), "begun with code x"),
    ],
)
def test_a_journal_of_something_else_is_refused(
    cases: tuple[Case, ...], tmp_path: Path, change: object, problem: str
) -> None:
    path = tmp_path / "journal"
    run(cases[:1], path)
    with pytest.raises(ConfigError, match="go on with --resume"):
        Records(path, seeds=3, resume=False)
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=problem):
        Records(path, seeds=3, resume=True)


def test_tuned_specs_are_used_and_what_was_untuned_stands_beside_them_on_validation(tmp_path: Path) -> None:
    root = write_suite(tmp_path)
    (root / "tuned.json").write_text(json.dumps({"calm": {"achq": {"spec": "achq:slack,theta=3", "score": 1}}}))
    found = plan_cases("own", POLICIES, root, EXTENT)
    by_key = {case.key: {c.label: c.spec for c in case.entries} for case in found}
    assert by_key["test/calm"] == {"random": "random", "lert:slack": "lert:slack", "achq": "achq:slack,theta=3"}
    assert by_key["validation/calm"]["achq untuned"] == "achq"
    assert by_key["test/wild"]["achq"] == "achq"
    assert "achq untuned" not in by_key["validation/wild"]


def test_what_can_not_be_run_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no scenario"):
        plan_cases("paper", POLICIES, tmp_path, EXTENT)
    root = write_suite(tmp_path)
    with pytest.raises(ConfigError, match="leaves no policy"):
        plan_cases("own", ["random"], root, EXTENT, without=["random"])
    for text, problem in (
        ("{", "can't read"),
        ('{"calm": ["achq"]}', "it maps scenario to policy"),
        ('{"calm": {"achq": {}}}', "it maps scenario to policy"),
        ('{"calm": {"achq": {"spec": "achq,theta=x"}}}', "theta"),
    ):
        (root / "tuned.json").write_text(text)
        with pytest.raises(ConfigError, match=problem):
            plan_cases("own", POLICIES, root, EXTENT)
