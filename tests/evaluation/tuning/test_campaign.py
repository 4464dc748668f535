from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.evaluation.campaign import Records
from orchestrator.evaluation.tuning.campaign import FIRST_SEED, Extent, Trial, Trials, best_of, try_all
from orchestrator.executors import open_executor, run_here
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.simulation import Simulation

POLICIES = ("lert:slack", "control-limit")


def write_scenario(folder: Path, name: str, **workload: Any) -> Path:
    model = {"accuracy": 0.7, "item_ms": 0.4, "group_ms": 1, "item_mj": 12, "group_mj": 30}
    wide = {**model, "accuracy": 0.75, "item_ms": 2, "item_mj": 60}
    values = {
        "name": name,
        "servers": [{"name": "a", "count": 2, "idle_w": 20, "widths": {25: model, 100: wide}}],
        "workload": {"kind": "gamma", "load_ratio": 0.4, "requests": 600, **workload},
        "objectives": {"deadline_ms": 50},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def scenarios(tmp_path: Path) -> list[Path]:
    return [write_scenario(tmp_path, "one"), write_scenario(tmp_path, "two", load_ratio=0.6)]


def tune(folder: Path, *more: str, policies: tuple[str, ...] = POLICIES) -> Result:
    chosen = [part for policy in policies for part in ("--policy", policy)]
    command = ["tune", "--scenario", str(folder), "--budget", "4", "--traces", "2", "--out", str(folder / "tuned.json")]
    return CliRunner().invoke(main, [*command, *chosen, *more])


def test_what_is_written_is_the_best_of_what_was_tried(scenarios: list[Path], tmp_path: Path) -> None:
    run = tune(tmp_path)
    assert run.exit_code == 0, run.output
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    tried = json.loads((tmp_path / "tuned.trials.json").read_text())
    assert not (tmp_path / "tuned.json.partial").exists()
    assert list(tuned) == ["one", "two"]
    assert tried["provenance"]["budget"] == 4
    assert tried["provenance"]["trace_seeds"] == [FIRST_SEED, FIRST_SEED + 1]
    for stem, policies in tuned.items():
        assert tuple(policies) == POLICIES
        for policy, best in policies.items():
            rows = [dict(zip(tried["columns"], row, strict=True)) for row in tried["trials"][stem][policy]]
            assert len(rows) == 4
            assert rows[0]["spec"] == policy
            assert best == max(rows, key=lambda row: row["utility"])


def try_some(
    scenarios: Sequence[Path], extent: Extent, partial: Path, policies: Sequence[str] = POLICIES, **more: Any
) -> Trials:
    with Records(partial, seeds=1, resume=True) as records:
        return try_all(scenarios, policies, extent, records, **more)


def test_the_figures_are_those_of_the_simulator(scenarios: list[Path], tmp_path: Path) -> None:
    extent = Extent(budget=1, traces=2)
    (trial,) = try_some(scenarios[:1], extent, tmp_path / "partial", ("lert:slack",))["one", "lert:slack"]
    settings, servers = load_scenario(scenarios[0])
    results = []
    for seed in (FIRST_SEED, FIRST_SEED + 1):
        simulation = Simulation(settings, servers, parse_policy("lert:slack"), seed=seed)
        simulation.run()
        results.append(summarise(simulation, seed=seed, warm_up_ratio=0.05))
    assert trial.figures[0] == pytest.approx(sum(r.attainment_ratio for r in results) / 2)
    assert trial.figures[3] == pytest.approx(sum(r.joules_per_answer or 0 for r in results) / 2)


def test_an_interrupted_run_goes_on_where_it_was(scenarios: list[Path], tmp_path: Path) -> None:
    partial, extent = tmp_path / "partial", Extent(budget=3, traces=1)
    whole = try_some(scenarios, extent, tmp_path / "other")

    def interrupted(run: Callable[[Any], Any], cells: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        yield from run_here(run, cells[:4])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_some(scenarios, extent, partial, execute=interrupted)
    with partial.open("a") as file:
        file.write('{"cell": ["two')  # what a crash leaves
    reported: list[tuple[int, int]] = []
    again = try_some(scenarios, extent, partial, progress=lambda *at: reported.append(at))
    runs = len({(stem, trial.spec) for (stem, _), trials in whole.items() for trial in trials})
    assert reported == [(done, runs) for done in range(4, runs + 1)]
    assert again == whole
    # Nothing is left to do, and every line is whole.
    assert try_some(scenarios, extent, partial) == whole
    assert len(partial.read_text().splitlines()) == 1 + runs


def test_two_processes_find_the_same(scenarios: list[Path], tmp_path: Path) -> None:
    extent = Extent(budget=2, traces=1)
    alone = try_some(scenarios[:1], extent, tmp_path / "a")
    with open_executor(processes=2) as execute:
        assert try_some(scenarios[:1], extent, tmp_path / "b", execute=execute) == alone


def test_what_was_tried_on_something_else_is_tried_again(scenarios: list[Path], tmp_path: Path) -> None:
    partial, extent = tmp_path / "partial", Extent(budget=1, traces=1)
    before = try_some(scenarios, extent, partial, ("lert:slack",))
    (tmp_path / "other").mkdir()
    changed = write_scenario(tmp_path / "other", "one", requests=700)
    after = try_some([changed, scenarios[1]], extent, partial, ("lert:slack",))
    assert len(partial.read_text().splitlines()) == 1 + 2 + 1
    assert after["two", "lert:slack"] == before["two", "lert:slack"]
    assert after["one", "lert:slack"] != before["one", "lert:slack"]


def test_what_other_code_has_begun_is_only_begun_anew(scenarios: list[Path], tmp_path: Path) -> None:
    (tmp_path / "tuned.json.partial").write_text('{"version": 1, "code": "x", "seeds": 1}\n')
    assert "was begun with code x, now it is" in tune(tmp_path).output
    assert tune(tmp_path, "--restart", policies=("lert:slack",)).exit_code == 0
    assert "two files are called one.yaml" in tune(tmp_path, "--scenario", str(scenarios[0])).output


def test_what_can_not_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    empty = tune(tmp_path)
    assert "holds no .yaml file" in empty.output
    write_scenario(tmp_path, "one")
    assert "policy 'best' is none that is tuned" in tune(tmp_path, policies=("best",)).output
    (tmp_path / "tuned.json.partial").write_text("no JSON\n")
    assert "is damaged" in tune(tmp_path).output


def test_of_equals_the_first_is_kept_which_is_the_default() -> None:
    trials = [Trial("a", 0.5, ()), Trial("b", 0.5, ()), Trial("c", 0.4, ())]
    assert best_of(trials).spec == "a"
