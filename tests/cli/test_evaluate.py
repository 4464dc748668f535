from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from tests.evaluation.example_suites import write_suite

ROOT = Path(__file__).parents[2]


def evaluate(root: Path, out: Path, *more: str, suite: str = "standard") -> Result:
    command = ["evaluate", "--suite", suite, "--scenarios", str(root), "--out", str(out), "--jobs", "1"]
    small = ["--traces", "2", "--validation-traces", "2", "--seeds", "2"]
    return CliRunner().invoke(main, [*command, *small, *more])


def test_a_suite_ends_in_a_document_and_a_page_that_say_the_same(tmp_path: Path) -> None:
    root, out = write_suite(tmp_path / "scenarios", stems=("calm",)), tmp_path / "out"
    policies = ("random", "lert:slack", "nexus", "thrift", "ppo-slim")
    run = evaluate(root, out, *(word for policy in policies for word in ("--policy", policy)))
    assert run.exit_code == 0, run.output
    document = json.loads((out / "evaluation-standard.json").read_text())
    assert len(document["claims"]) == 6
    assert {"name", "value", "bar", "met", "interval"} <= document["claims"][0].keys()
    (scenario,) = document["scenarios"]
    by_policy = {policy["policy"]: policy for policy in scenario["policies"]}
    assert by_policy["random"]["seeds"] == 2
    figures = by_policy["lert:slack"]["figures"]
    assert figures["attainment_ratio"]["value"] > by_policy["random"]["figures"]["attainment_ratio"]["value"]
    low, high = figures["p99_s"]["interval"]
    assert low <= figures["p99_s"]["value"] <= high
    assert by_policy["lert:slack"]["least_joules_by_fluid_bound"] < figures["joules_per_answer"]["value"]
    assert {row["policy"] for row in document["default"]} == set(policies)
    (row,) = document["against_best_of_literature"]
    assert row["heuristic"] in {"lert:slack", "nexus"}
    assert row["utility"] < row["most_utility_by_fluid_bound"] == scenario["most_utility_by_fluid_bound"]
    assert 0 < row["most_joules_less_by_fluid_bound"] < 1
    (window,) = document["clairvoyant"]
    assert 0 < window["share_of_point"] <= 1 + 1e-6
    assert (
        f"{1e2 * window['share_of_heuristic']:.1f} | `{window['point']}`"
        in (out / "evaluation-standard.md").read_text()
    )
    by_utility = document["by_utility"]
    assert sum(by_utility[verdict] for verdict in ("higher", "lower", "undecided")) == 1
    page = (out / "evaluation-standard.md").read_text()
    assert f"## Claims: {sum(claim['met'] for claim in document['claims'])} of 6 met" in page
    assert f"**{by_utility['higher']}** of 1 scenarios with the interval above 0" in page
    assert f"{1e2 * row['most_joules_less_by_fluid_bound']:.2f} |" in page
    assert f"{1e3 * figures['p99_s']['value']:,.2f} ±" in page
    assert f"**`{document['default'][0]['policy']}`**" in page
    assert not (out / "evaluation-standard.partial").exists()
    web = (out / "evaluation-standard.html").read_text()
    assert web.count("<svg") == 1
    for text in ("accuracy over energy", "fluid bound", "mean width of what arrived", "share of the items", "nexus"):
        assert text in web
    assert not re.search(
        r'(?:src|href)="(?!evaluation-|\.\./|#)', web.replace('xmlns:xlink="', "")
    )  # whole in one file


def test_each_of_several_families_whose_popularity_drifts_is_reported(tmp_path: Path) -> None:
    root, out = tmp_path / "scenarios", tmp_path / "out"
    text = (ROOT / "scenarios" / "three-families.yaml").read_text()
    assert "drift_amplitude: 2" in text and "requests: 50000" in text
    for folder in (root / "test" / "standard", root / "validation"):
        folder.mkdir(parents=True)
        (folder / "three.yaml").write_text(text.replace("requests: 50000", "requests: 2000"))
    policies = ("random", "lert:slack", "nexus", "thrift", "ppo-slim")
    run = evaluate(root, out, *(word for policy in policies for word in ("--policy", policy)))
    assert run.exit_code == 0, run.output
    (scenario,) = json.loads((out / "evaluation-standard.json").read_text())["scenarios"]
    in_time = {policy["policy"]: policy["in_time_of_families"] for policy in scenario["policies"]}
    assert in_time.keys() == set(policies)
    for families in in_time.values():
        assert families.keys() == {"plates", "signs", "faces"}
        assert all(0 <= ratio <= 1 for ratio in families.values())
    assert all(in_time["lert:slack"][name] > in_time["random"][name] for name in ("plates", "signs", "faces"))


def test_suite_paper_is_held_against_both_readings_of_random_on_test_scenarios_alone(tmp_path: Path) -> None:
    root, out = write_suite(tmp_path / "scenarios", "paper", stems=("calm",)), tmp_path / "out"
    policies = ("random", "random-batch", "lert:narrowest")
    run = evaluate(root, out, *(word for policy in policies for word in ("--policy", policy)), suite="paper")
    assert run.exit_code == 0, run.output
    document, page = (
        json.loads((out / "evaluation-paper.json").read_text()),
        (out / "evaluation-paper.md").read_text(),
    )
    for baseline, other in (policies[:2], policies[1::-1]):
        rows = document["against_random"][baseline]
        assert [row["policy"] for row in rows] == [other, "lert:narrowest"]
        assert rows[1]["mean_latency_less"]["value"] > 0
        assert f"## Against `{baseline}`" in page
    assert document["left_out"] in page


@pytest.mark.parametrize(
    ("more", "suite", "problem"),
    [
        (["--policy", "best"], "standard", "unknown policy 'best'"),
        (["--policy", "achq,theta=x"], "standard", "theta"),
        ([], "papers", "'papers' is not one of"),
        ([], "paper", "holds no scenario"),
        (["--traces", "0"], "standard", "0 is not in the range"),
        (["--policy", "random", "--without", "random"], "standard", "leaves no policy"),
    ],
)
def test_what_can_not_be_used_is_reported_in_one_line(
    tmp_path: Path, more: list[str], suite: str, problem: str
) -> None:
    run = evaluate(write_suite(tmp_path / "scenarios"), tmp_path / "out", *more, suite=suite)
    assert run.exit_code != 0
    assert problem in run.output
    assert len(run.output.strip().splitlines()) == 1


def test_impossible_scenarios_and_traces_out_of_order_are_refused_before_anything_runs(tmp_path: Path) -> None:
    root = write_suite(tmp_path / "scenarios", stems=("calm",))
    path = root / "test" / "standard" / "calm.yaml"
    text = path.read_text()
    (path.parent / "times.txt").write_text("0.1\n0.3\n0.2\n")
    for changed, problem in (
        (text.replace("load_ratio: 0.4", "load_ratio: -1"), "load_ratio"),
        (text.replace("kind: gamma", "kind: replay, file: times.txt"), "line 3"),
        (text.replace("kind: gamma", "kind: replay, file: none.txt"), "can't read the timestamps"),
    ):
        path.write_text(changed)
        run = evaluate(root, tmp_path / "out", "--policy", "random")
        assert run.exit_code == 1
        assert problem in run.output
        assert not (tmp_path / "out" / "evaluation-standard.partial").exists()


def test_an_unfinished_run_is_only_gone_on_with_when_asked_to(tmp_path: Path) -> None:
    root, out = write_suite(tmp_path / "scenarios", stems=("calm",)), tmp_path / "out"
    out.mkdir()
    (out / "evaluation-standard.partial").write_text('{"version": 1}\n')
    for more, problem in (((), "go on with --resume"), (("--resume",), "begun with code None")):
        run = evaluate(root, out, "--policy", "random", *more)
        assert run.exit_code == 1
        assert problem in run.output
    (out / "evaluation-standard.partial").unlink()
    (tmp_path / "file").touch()
    assert "can't write the report" in evaluate(root, tmp_path / "file" / "out", "--policy", "random").output
