from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from tests.evaluation.example_suites import write_suite

ROOT = Path(__file__).parents[2]


def evaluate(root: Path, out: Path, *more: str, suite: str = "own") -> Result:
    command = ["evaluate", "--suite", suite, "--scenarios", str(root), "--out", str(out), "--jobs", "1"]
    small = ["--traces", "2", "--validation-traces", "2", "--seeds", "2"]
    return CliRunner().invoke(main, [*command, *small, *more])


def test_a_suite_ends_in_a_document_and_a_page_that_say_the_same(tmp_path: Path) -> None:
    root, out = write_suite(tmp_path / "scenarios", stems=("calm",)), tmp_path / "out"
    policies = ("random", "lert:slack", "nexus", "thrift", "ppo-slim")
    run = evaluate(root, out, *(word for policy in policies for word in ("--policy", policy)))
    assert run.exit_code == 0, run.output
    document = json.loads((out / "evaluation-own.json").read_text())
    (scenario,) = document["scenarios"]
    by_policy = {policy["policy"]: policy for policy in scenario["policies"]}
    assert by_policy["random"]["seeds"] == 2
    figures = by_policy["lert:slack"]["figures"]
    assert figures["attainment_ratio"]["value"] > by_policy["random"]["figures"]["attainment_ratio"]["value"]
    low, high = figures["p99_s"]["interval"]
    assert low <= figures["p99_s"]["value"] <= high
    assert by_policy["lert:slack"]["least_joules_by_fluid_bound"] < figures["joules_per_answer"]["value"]
    assert {row["policy"] for row in document["default"]} == set(policies)
    tested = document["tested"]
    assert {row["policy"] for row in tested} == set(policies)
    assert (tested[0]["worst"], tested[0]["behind"]) == ("calm", 0)
    behind = tested[0]["utility"]["value"] - tested[-1]["utility"]["value"]
    assert tested[-1]["behind"] == pytest.approx(behind, rel=1e-5), "the document rounds each to six digits"
    page = (out / "evaluation-own.md").read_text()
    assert f"| `{tested[0]['policy']}` | 1 | {tested[0]['utility']['value']:.4f} ±" in page
    assert re.search(rf"{tested[0]['policy']} +│ 1 +│ {tested[0]['utility']['value']:.4f}", run.output)
    assert (document["claims"], "Claims" in page) == ([], False)
    assert f"{1e3 * figures['p99_s']['value']:,.2f} ±" in page
    assert f"**`{document['default'][0]['policy']}`**" in page
    assert not (out / "evaluation-own.partial").exists()
    web = (out / "evaluation-own.html").read_text()
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
    for folder in (root / "test" / "own", root / "validation"):
        folder.mkdir(parents=True)
        (folder / "three.yaml").write_text(text.replace("requests: 50000", "requests: 2000"))
    policies = ("random", "lert:slack", "nexus", "thrift", "ppo-slim")
    run = evaluate(root, out, *(word for policy in policies for word in ("--policy", policy)))
    assert run.exit_code == 0, run.output
    (scenario,) = json.loads((out / "evaluation-own.json").read_text())["scenarios"]
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
    assert f"## Claims: {sum(claim['met'] for claim in document['claims'])} of 20 met" in page
    assert {"name", "value", "bar", "met", "interval"} <= document["claims"][0].keys()
    for baseline, other in (policies[:2], policies[1::-1]):
        rows = document["against_random"][baseline]
        assert [row["policy"] for row in rows] == [other, "lert:narrowest"]
        assert rows[1]["mean_latency_less"]["value"] > 0
        assert f"## Against `{baseline}`" in page
    assert document["left_out"] in page


@pytest.mark.parametrize(
    ("more", "suite", "problem"),
    [
        (["--policy", "best"], "own", "unknown policy 'best'"),
        (["--policy", "achq,theta=x"], "own", "theta"),
        ([], "paper", "test/paper holds no scenario; suites there: own; --scenarios names another folder"),
        ([], "../test/own", "holds no scenario"),
        (["--traces", "0"], "own", "0 is not in the range"),
        (["--policy", "random", "--without", "random"], "own", "leaves no policy"),
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
    path = root / "test" / "own" / "calm.yaml"
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
        assert not (tmp_path / "out" / "evaluation-own.partial").exists()


def test_an_unfinished_run_is_only_gone_on_with_when_asked_to(tmp_path: Path) -> None:
    root, out = write_suite(tmp_path / "scenarios", stems=("calm",)), tmp_path / "out"
    out.mkdir()
    (out / "evaluation-own.partial").write_text('{"version": 1}\n')
    for more, problem in (((), "begun with code None"), (("--resume",), "begun with code None")):
        run = evaluate(root, out, "--policy", "random", *more)
        assert run.exit_code == 1
        assert problem in run.output
    (out / "evaluation-own.partial").unlink()
    (tmp_path / "file").touch()
    assert "can't write the report" in evaluate(root, tmp_path / "file" / "out", "--policy", "random").output
