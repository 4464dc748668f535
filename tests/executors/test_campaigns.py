"""What campaigns find on a cluster is what they find here, to the bit, and a worker that dies changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.evaluation import campaign as evaluations
from orchestrator.evaluation.campaign import Records
from orchestrator.evaluation.cases import Extent, plan_cases
from orchestrator.evaluation.tuning import campaign as tunings
from orchestrator.executors import Executor, open_executor, run_here
from orchestrator.policies.learned.policy import SHIPPED
from tests.evaluation.example_suites import write_suite
from tests.executors.clusters import Cluster, open_cluster

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
SCENARIO = Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml"
EXTENT = Extent(traces=2, validation_traces=1, seeds=3, requests=200)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


COMMANDS = (
    ["simulate", "--policy", "random", "--policy", "ppo-slim", "--seeds", "2", "--requests", "400"],
    ["bounds", "--policy", "lert:slack", "--requests", "6", "--windows", "2"],
    ["train-router", "--present", "max-batch", "--validate", str(SHIPPED / "ppo-slim.npz")],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_writes_the_same_file_with_dask_with_processes_and_alone(
    command: list[str], cluster: Cluster, tmp_path: Path
) -> None:
    written = []
    side_by_side = "--threads" if command[0] == "train-router" else "--processes"
    for at, more in enumerate(([side_by_side, "1"], [side_by_side, "2"], ["--dask", cluster.address])):
        out = tmp_path / f"{at}.json"
        run = CliRunner().invoke(main, [*command, "--scenario", str(SCENARIO), *more, "--out", str(out)])
        assert run.exit_code == 0, run.output
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_that_is_interrupted_goes_on_from_there_and_writes_the_same_file(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> Result:
        return CliRunner().invoke(main, [*command, "--scenario", str(SCENARIO), "--out", str(out)])

    assert run(tmp_path / "whole.json").exit_code == 0
    ran: list[Any] = []

    def execute(function: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterator[tuple[Any, Any]]:
        for job in jobs:
            if ran and is_interrupted:
                raise KeyboardInterrupt
            ran.append(job[0])
            yield job, function(job)

    @contextmanager
    def open_here(**options: Any) -> Iterator[Executor]:
        yield execute

    module = import_module(f"orchestrator.cli.research.{command[0].replace('-', '_')}")
    monkeypatch.setattr(module, "open_executor", open_here)
    out, kept, is_interrupted = tmp_path / "out.json", tmp_path / "out.json.partial", True
    stopped = run(out)
    assert (stopped.exit_code, stopped.stderr.splitlines()[-1:]) == (
        130,
        [f"interrupted; the same command goes on from {kept}"],
    )
    assert len(kept.read_text().splitlines()) == 1 + 1
    is_interrupted = False
    again = run(out)
    assert again.exit_code == 0, again.output
    assert ran.count(ran[0]) == 1
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not kept.exists()


def test_a_suite_finds_the_same_figures(cluster: Cluster, tmp_path: Path) -> None:
    cases = plan_cases("own", ("random", "lert:slack", "ppo-slim"), write_suite(tmp_path / "scenarios"), EXTENT)

    def run(execute: Executor, path: Path) -> dict[evaluations.CellKey, object]:
        with Records(path, seeds=EXTENT.seeds, resume=False) as records:
            evaluations.run_campaign(cases, records, seeds=EXTENT.seeds, execute=execute)
        return {key: (result.runs, result.timeline) for key, result in records.results.items()}

    with open_executor(dask=cluster.address) as execute:
        there = run(execute, tmp_path / "there")
    assert there == run(run_here, tmp_path / "here")


def test_the_commands_of_campaigns_find_the_same_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    scenarios, found = write_suite(tmp_path / "scenarios"), []
    size = ["--traces", "1", "--requests", "200"]
    for at, more in (("here", []), ("there", ["--dask", cluster.address])):
        out = tmp_path / at
        evaluate = ["--suite", "own", "--scenarios", str(scenarios), "--policy", "random", "--policy", "lert:slack"]
        evaluate += [*size, "--validation-traces", "1", "--seeds", "2", "--out", str(out)]
        tune = ["--scenario", str(SCENARIO), "--policy", "lert:slack", "--budget", "2", *size, "--out", f"{out}.json"]
        for command in (["evaluate", *evaluate, *more], ["tune", *tune, *more]):
            run = CliRunner().invoke(main, command)
            assert run.exit_code == 0, run.output
        document = json.loads((out / "evaluation-own.json").read_text())
        tried = json.loads(Path(f"{out}.trials.json").read_text())
        assert tried.pop("provenance")["command"].endswith(f"{out}.json")  # which is another one
        assert tried
        found.append((document["scenarios"], tried))
    assert found[0] == found[1]


def test_a_worker_that_is_killed_and_an_interruption_change_nothing_of_a_tuning(tmp_path: Path) -> None:
    paths, policies = [SCENARIO], ("lert:slack", "control-limit", "nexus", "achq")
    extent = tunings.Extent(budget=3, traces=1, requests=300)

    def tune(path: Path, **more: Any) -> tunings.Trials:
        with Records(path, seeds=1, resume=True) as records:
            return tunings.try_all(paths, policies, extent, records, **more)

    alone = tune(tmp_path / "alone")

    class InterruptedError(Exception):
        pass

    with open_cluster(tmp_path) as cluster, open_executor(dask=cluster.address) as execute:

        def kill_then_interrupt(done: int, of: int) -> None:
            if done == 1:
                cluster.kill_worker()
            if done == 2:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            tune(tmp_path / "x", execute=execute, progress=kill_then_interrupt)
        reported: list[int] = []
        again = tune(tmp_path / "x", execute=execute, progress=lambda done, of: reported.append(done))
    runs = len({trial.spec for trials in alone.values() for trial in trials})
    assert reported == list(range(2, runs + 1))
    assert again == alone
