from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from orchestrator.cli import main
from tests.router.test_learned import out_of_range, put

SCENARIO = str(Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml")


def test_policies_are_compared_in_a_table_a_file_and_a_picture(tmp_path: Path) -> None:
    out, plot = tmp_path / "deep" / "out.json", tmp_path / "plot.svg"
    command = ["simulate", "--scenario", SCENARIO, "--policy", "random", "--policy", "lert:slack", "--seeds", "2"]
    run = CliRunner().invoke(main, [*command, "--requests", "3000", "--out", str(out), "--plot", str(plot)])
    assert run.exit_code == 0, run.output
    assert "lert:slack" in run.output
    assert "fluid bound" in run.output
    saved = json.loads(out.read_text())
    assert [(r["policy"], r["seed"]) for r in saved["results"]] == [
        ("random", 0),
        ("lert:slack", 0),
        ("random", 1),
        ("lert:slack", 1),
    ]
    assert saved["results"][1]["attainment_ratio"] > saved["results"][0]["attainment_ratio"]
    assert saved["scenario"]["workload"]["requests"] == 3000
    of_server = {"name", "items", "groups", "utilisation_ratio", "energy_j", "peak_bytes"}
    assert all(server.keys() == of_server for result in saved["results"] for server in result["servers"])
    drawn = plot.read_text()
    for text in ("deadline", "right in time", "random", "lert:slack"):
        assert f"<!-- {text} -->" in drawn


def test_of_callers_who_wait_it_is_said_that_the_load_is_the_most_there_is(tmp_path: Path) -> None:
    path = tmp_path / "waiting.yaml"
    widths = "{25: {item_ms: 1}, 100: {item_ms: 4}}"
    path.write_text(
        f"name: waiting\nservers: [{{name: a, widths: {widths}}}]\nworkload: {{requests: 300, callers: 3}}\n"
    )
    run = CliRunner().invoke(main, ["simulate", "--scenario", str(path), "--policy", "lert:slack"])
    assert run.exit_code == 0, run.output
    assert "at the most, by callers who wait (3)" in " ".join(run.output.split())
    bounds = CliRunner().invoke(main, ["bounds", "--scenario", str(path)])
    assert bounds.exit_code == 1
    assert "workload.callers is 3" in " ".join(bounds.output.split())


def test_what_can_not_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    for more, problem in (
        (["--policy", "best"], "unknown policy 'best'"),
        (["--policy", "best", "--plot", "p.txt"], "can't write the picture p.txt: its name must end in one of "),
        (["--requests", "10", "--out", f"{SCENARIO}/x.json"], "can't write"),
    ):
        run = CliRunner().invoke(main, ["simulate", "--scenario", SCENARIO, *more])
        assert run.exit_code == 1
        assert problem in run.output
        assert len(run.output.strip().splitlines()[-1:]) == 1


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "name: mine\nservers: [{name: a, widths: {100: {item_ms: 1}}}]\nworkload: {requests: 20}\n"
    path.write_text(text)
    for command in (["simulate", "--seeds", "1"], ["bounds", "--windows", "0"], ["tune", "--budget", "1"]):
        run = CliRunner().invoke(main, [*command, "--scenario", str(path), "--out", str(path)])
        assert (run.exit_code, "would replace what the command reads" in run.output) == (1, True), run.output
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_can_not_be_written_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plot = tmp_path / "file" / "p.png"
    run = CliRunner().invoke(main, ["simulate", "--scenario", SCENARIO, "--policy", "lert", "--plot", str(plot)])
    assert (run.exit_code, f"can't write the picture {plot}" in run.output) == (1, True), run.output
    assert "in time" not in run.output


def test_a_learned_policy_is_simulated_from_its_file_and_falls_back_where_it_must(tmp_path: Path) -> None:
    out, path = tmp_path / "out.json", put(tmp_path / "policy.npz", out_of_range())
    command = [
        "simulate",
        "--scenario",
        SCENARIO,
        "--policy",
        f"ppo-slim:{path}",
        "--policy",
        "lert:slack",
        "--requests",
        "500",
        "--seeds",
        "1",
    ]
    run = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert run.exit_code == 0, run.output
    learned, base = json.loads(out.read_text())["results"]
    assert learned["policy"] == f"ppo-slim:{path}"
    assert learned["mean_s"] == base["mean_s"]
