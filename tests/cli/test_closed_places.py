"""What the offline commands say of a folder that this user may not look into: one line, and no bug."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import Extent, plan_cases
from orchestrator.evaluation.suite import load_suite
from orchestrator.evaluation.tuning.campaign import find_scenarios
from orchestrator.learning.arrivals import read_arrivals
from orchestrator.learning.report import report_path
from orchestrator.loadgen.target import parse_set_up
from orchestrator.simulation.scenario.residuals import read_factors
from tests.closed import closed

SCENARIO = Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "of another"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    "command", [["simulate"], ["tune", "--policy", "thrift"], ["tune", "--policy", "thrift", "--restart"], ["bounds"]]
)
def test_nothing_is_run_for_a_file_that_can_not_be_written(folder: Path, command: list[str]) -> None:
    CliRunner().invoke(main, [command[0], "--help"])  # what is imported lies where nobody may look
    with closed(folder):
        run = CliRunner().invoke(main, [*command, "--scenario", str(SCENARIO), "--out", str(folder / "x.json")])
    assert (run.exit_code, run.output) == (
        1,
        f"Error: can't write {folder / 'x.json'} (Permission denied); choose another place\n",
    )


def test_what_is_read_and_written_there_is_refused_in_words(folder: Path) -> None:
    with closed(folder):
        assert find_scenarios([folder / "x.yaml"]) == [folder / "x.yaml"]
        assert load_suite("frozen", folder / "scenarios").name == "frozen"
        for read in (
            lambda: plan_cases("frozen", ["lert"], folder / "scenarios", Extent()),
            lambda: read_factors(folder / "factors.txt"),
            lambda: asyncio.run(parse_set_up(f"a=router:{folder}/fleet.yaml")),
        ):
            with pytest.raises(ConfigError, match=r"can't read .*Permission denied"):
                read()
        with pytest.raises(ConfigError, match="is no file or folder"):
            read_arrivals(folder / "times.txt")
        with pytest.raises(ConfigError, match=r"can't write the report to .*Permission denied"):
            report_path(folder / "p.npz", [])
