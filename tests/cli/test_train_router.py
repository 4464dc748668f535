"""What ``slimsched train-router`` refuses, and in which order it writes what it has found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.research.train_router import fit_and_write
from orchestrator.errors import ConfigError
from orchestrator.learning import fitting
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.fitting import Fit, FitSettings
from orchestrator.learning.judging import Candidate
from orchestrator.learning.tasks import given_traffic
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned.policy_file import read_policy_file

ROOT = Path(__file__).parents[2]
SCENARIO = ROOT / "scenarios" / "two-unlike.yaml"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "-5"], "not in the range"),
        (["--minutes", "nan"], "nan is not a finite number"),
        (["--minutes", "inf"], "inf is not a finite number"),
        (["--policy", "ppo-paper", "--weights", "nan", "1", "1"], "nan is not a finite number"),
        (["--policy", "ppo-paper", "--learner", "ppo"], "--learner counts for nothing with --policy ppo-paper"),
        (["--policy", "ppo-paper", "--threads", "2"], "--threads counts for nothing with --policy ppo-paper"),
        (["--validate", str(SCENARIO), "--seed", "2"], "--seed counts for nothing with --validate"),
        (["--validate", str(SCENARIO), "--learner", "ppo"], "--learner counts for nothing with --validate"),
    ],
)
def test_options_that_say_nothing_or_count_for_nothing_are_refused(
    options: list[str], said: str, tmp_path: Path
) -> None:
    command = ["train-router", "--scenario", str(SCENARIO), "--out", str(tmp_path / "x.npz"), *options]
    run = CliRunner().invoke(main, command)
    assert (run.exit_code, said in run.output) == (2, True), run.output


def test_weights_that_have_no_sum_are_refused_before_anything_is_learned(tmp_path: Path) -> None:
    command = ["train-router", "--policy", "ppo-paper", "--scenario", str(SCENARIO), "--out", str(tmp_path / "x.npz")]
    run = CliRunner().invoke(main, [*command, "--weights", "1e308", "1e308", "1e308"])
    assert (run.exit_code, "add up to inf" in run.output) == (1, True), run.output


def test_a_report_replaces_nothing_that_was_given_nor_the_policy_itself(tmp_path: Path) -> None:
    profile, arrivals = tmp_path / "mine.json", tmp_path / "times.txt"
    profile.write_bytes((ROOT / "profiles" / "demo-fleet.json").read_bytes())
    arrivals.write_text("".join(f"{at / 50}\n" for at in range(20_000)))
    before = profile.read_bytes()
    command = ["train-router", "--profile", str(profile), "--arrivals", str(arrivals), "--minutes", "0"]
    for name in ("mine.npz", "other.json"):
        run = CliRunner().invoke(main, [*command, "--out", str(tmp_path / name)])
        assert (run.exit_code, "which is something else" in run.output) == (1, True), run.output
    run = CliRunner().invoke(main, [*command, "--out", str(arrivals)])
    assert (run.exit_code, "would replace what it is made of" in run.output) == (1, True), run.output
    (tmp_path / "folder").mkdir()
    run = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "folder")])
    assert run.exit_code == 2
    assert profile.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"mine.json", "times.txt", "folder"}


def test_a_policy_as_the_paper_has_it_replaces_no_scenario(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(SCENARIO.read_bytes())
    command = ["train-router", "--policy", "ppo-paper", "--minutes", "0", "--scenario", str(path), "--out", str(path)]
    run = CliRunner().invoke(main, command)
    assert (run.exit_code, "would replace what the command reads" in run.output) == (1, True), run.output
    assert path.read_bytes() == SCENARIO.read_bytes()


def test_a_policy_that_can_not_be_written_costs_nothing_that_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "x.npz", tmp_path / "run"
    settings = FitSettings("random", seconds=0.0, threads=1, learners=("evolution",))
    write = fitting.write_promoted

    def fail(path: Path, promoted: Candidate) -> None:
        raise ConfigError("the disk is full")

    monkeypatch.setattr(fitting, "write_promoted", fail)
    traffic = given_traffic(SCENARIO, None, None)
    with pytest.raises(ConfigError, match="the disk is full"):
        fit_and_write(traffic, settings, run, out, [], resume=False)
    assert not out.with_suffix(".json").exists()
    assert (run / "rungs.json").exists()
    monkeypatch.setattr(fitting, "write_promoted", write)
    fit_and_write(traffic, settings, run, out, [], resume=True)
    assert read_policy_file(out).base == json.loads(out.with_suffix(".json").read_text())["promoted"]
    assert not list(run.glob("*.json"))


def test_a_run_that_is_interrupted_says_that_it_can_go_on_only_where_something_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def fit(traffic: Traffic, settings: FitSettings, folder: RunFolder, **how: object) -> Fit:
        for name in kept:
            folder.write(name, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", fit)
    command = ["train-router", "--scenario", str(SCENARIO), "--out", str(tmp_path / "x.npz")]
    run = CliRunner().invoke(main, command)
    assert (run.exit_code, run.stderr.splitlines()[-1]) == (130, "interrupted; nothing was kept yet")
    kept.append("rungs")
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 130
    assert run.stderr.splitlines()[-1].startswith("interrupted; the same command with --resume goes on from ")
