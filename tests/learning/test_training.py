"""A run from end to end, small: it learns, repeats itself, is resumed, and is refused where it can't be."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.research.train_router import train_router
from orchestrator.errors import ConfigError
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.cloning import Demonstrations, clone, collect_demonstrations, held_out
from orchestrator.learning.curriculum import Curriculum, best_expert
from orchestrator.learning.networks import ScoringNet
from orchestrator.learning.tasks import draw_task, requests_per_deadline, simulate_totals, utility
from orchestrator.learning.training import TrainingSettings, train
from orchestrator.learning.validation import drawn_tasks, file_tasks, prepare_validation, validate
from orchestrator.learning.vector_env import FleetVecEnv, base_actions
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import read_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.snapshot import ServerName
from tests.policies.learned.test_policy import slim
from tests.simulation.worlds import scenario

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
TINY = TrainingSettings(
    steps=4096,
    worlds=8,
    replicas=2,
    rollout=64,
    requests=60,
    demonstrations=200,
    clone_rounds=2,
    clone_epochs=1,
    validate_every=4,
    strength=2.0,
)
SCENARIO = Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml"


def trivial() -> Task:
    """Half of the energy weighs all, and the base heuristic, which fills slack with width, spends it."""
    models = tuple(
        linear_model(
            w,
            per_item_s=w * 2e-5,
            fixed_s=1e-3,
            accuracy=0.5 + w / 1000,
            max_batch_size=8,
            per_item_j=w * 1e-3,
            fixed_j=0.01,
        )
        for w in (25, 100)
    )
    servers = tuple(SimulatedServer(ServerName(f"s{i}"), models, idle_w=5) for i in range(2))
    settings = scenario(requests=60, load=0.3, objectives={"deadline_ms": 60})
    return Task(settings, servers, (0.05, 0.05, 0.9))


def test_cloning_alone_finds_out_that_the_base_is_wrong(tmp_path: Path) -> None:
    task = trivial()
    validations = prepare_validation([task], traces=2, base="lert:slack")
    assert validations[0].best > validations[0].base + 0.2  # there is something to learn
    settings = replace(TINY, steps=0, demonstrations=1200, clone_epochs=80, strength=1.0)
    found = train(settings, RunFolder(tmp_path), validations, task=task)
    gained = found.validation["over_base"]
    assert gained > 0.8 * (validations[0].best - validations[0].base)
    policy = LearnedPolicy(found)  # and with its ranges held against it, as it would be served
    earned = np.mean([utility(task, simulate_totals(task, policy, seed)) for seed in validations[0].seeds])
    assert earned == pytest.approx(found.validation["earned"])


def test_ppo_alone_finds_out_that_the_base_is_wrong(tmp_path: Path) -> None:
    task = trivial()
    validations = prepare_validation([task], traces=2, base="lert:slack")
    settings = replace(
        TINY,
        steps=24_576,
        demonstrations=0,
        worlds=16,
        replicas=4,
        batch=128,
        learning_rate=1e-3,
        strength=1.0,
        warm_up=2,
    )
    found = train(settings, RunFolder(tmp_path), validations, task=task)
    assert found.validation["of"] != "the untrained policy"
    assert found.validation["over_base"] > 0.8 * (validations[0].best - validations[0].base)


def test_the_same_seed_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Checkpoints by the clock would take turns otherwise on a busy machine.
    monkeypatch.setattr("orchestrator.learning.training._KEEP_EVERY_S", float("inf"))
    validations = prepare_validation(drawn_tasks(1, requests=60), traces=1, base="lert:slack")
    settings = replace(TINY, steps=1024)
    texts: list[list[str]] = [[], []]
    for run in (0, 1):
        folder = RunFolder(tmp_path / str(run))
        train(settings, folder, validations, report=lambda steps, text, run=run: texts[run].append(text))  # type: ignore[misc]
        assert (folder.path / "state.json").exists()
        assert list((folder.path / "log").glob("events*"))
    assert texts[0] == texts[1]
    models = [RunFolder(tmp_path / str(run)) for run in (0, 1)]
    states = [(folder.path / "state.json").read_text() for folder in models]
    assert states[0] == states[1]


def test_an_interrupted_run_goes_on_and_no_other_is_taken_for_it(tmp_path: Path) -> None:
    validations = prepare_validation(drawn_tasks(1, requests=60), traces=1, base="lert:slack")
    folder = RunFolder(tmp_path / "run")
    settings = replace(TINY, steps=512, demonstrations=0)
    train(settings, folder, validations)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(settings, folder, validations)
    longer = replace(settings, steps=1024)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        train(replace(longer, seed=1), folder, validations, resume=True)
    steps: list[int] = []
    train(longer, folder, validations, resume=True, report=lambda at, text: steps.append(at))
    assert steps[0] > 512
    assert steps[-1] == 1024
    (folder.path / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="can't resume from"):
        train(longer, folder, validations, resume=True)


def test_cloning_that_was_interrupted_goes_on_with_the_demonstrations_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations = prepare_validation(drawn_tasks(1, requests=60), traces=1, base="lert:slack")
    folder = RunFolder(tmp_path / "run")
    settings = replace(TINY, steps=0, demonstrations=600, clone_rounds=3)

    def interrupt(steps: int, text: str) -> None:
        if text.startswith("round 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, folder, validations, report=interrupt)
    asked: list[int] = []

    def counted(env: FleetVecEnv, count: int, **more: Any) -> Demonstrations:
        asked.append(count)
        return collect_demonstrations(env, count, **more)

    monkeypatch.setattr("orchestrator.learning.training.collect_demonstrations", counted)
    texts: list[str] = []
    train(settings, folder, validations, resume=True, report=lambda steps, text: texts.append(text))
    assert len(asked) == 1  # for the third round; those of the first two were kept
    assert 0 < asked[0] <= 200
    rounds = [text.split()[:3] for text in texts if text.startswith("round")]
    assert [number for _, number, _ in rounds] == ["2:", "3:"]
    assert [int(demonstrations) >= 400 for _, _, demonstrations in rounds] == [True, True]
    assert not list(folder.path.glob("*lessons*"))
    assert not any("untrained" in text for text in texts)


def test_a_run_that_does_not_become_better_ends_early(tmp_path: Path) -> None:
    validations = prepare_validation(drawn_tasks(1, requests=60), traces=1, base="lert:slack")
    settings = replace(
        TINY, steps=10**6, demonstrations=0, learning_rate=1e-9, strength=50.0, validate_every=1, patience=2
    )
    steps: list[int] = []
    found = train(settings, RunFolder(tmp_path), validations, report=lambda at, text: steps.append(at))
    assert steps[-1] < 10_000
    assert found.validation["of"] == "the untrained policy"
    assert found.validation["over_base"] == 0


def test_whole_worlds_of_every_kind_are_held_out() -> None:
    episodes = np.repeat(np.arange(400), 3)
    is_held = held_out(episodes, np.random.default_rng(0))
    held = set(episodes[is_held])
    assert len(held) == 40
    assert not held & set(episodes[~is_held])
    assert {seed % 2 for seed in held} == {0, 1}  # drawn worlds and files
    assert len({seed // 2 % 15 for seed in held if seed % 2 == 0}) > 5  # and not the same few files


@pytest.mark.parametrize(("departures", "departs"), [(6, False), (8, True)])
def test_to_depart_from_the_base_must_be_thrice_as_likely_right(departures: int, departs: bool) -> None:
    env = FleetVecEnv(Curriculum(0, requests=60), worlds=1)
    env.reset()
    base = int(base_actions(env.observations)[0])
    other = next(action for action in np.flatnonzero(env.masks[0]) if action != base)
    actions = np.array([other] * departures + [base] * (10 - departures))
    same = [np.repeat(array, 10, axis=0) for array in (env.observations, env.masks)]
    net = ScoringNet(2.0)
    clone(net, Demonstrations(np.arange(10), same[0], same[1], actions), epochs=400, seed=0, learning_rate=3e-3)
    with torch.no_grad():
        scores = net(torch.as_tensor(env.observations))[0].numpy()
    assert bool(scores[other] > scores[base]) is departs


def test_cloning_comes_closer_to_the_experts() -> None:
    env = FleetVecEnv(Curriculum(0, requests=60), worlds=8)
    env.reset()
    demonstrations = collect_demonstrations(env, 4000, seed=0)
    assert demonstrations.masks[np.arange(len(demonstrations.actions)), demonstrations.actions].all()
    net = ScoringNet(2.0)
    before = clone(net, demonstrations, epochs=0, seed=0)
    assert clone(net, demonstrations, epochs=8, seed=0, learning_rate=3e-3) > before + 0.02


def test_draws_repeat_themselves_and_grow_with_the_stage() -> None:
    assert draw_task(5, stage=0.3) == draw_task(5, stage=0.3)
    assert max(len(draw_task(seed, stage=0.0).servers) for seed in range(30)) <= 2
    assert max(len(draw_task(seed, stage=1.0).servers) for seed in range(30)) > 6
    for seed in range(30):
        assert sum(draw_task(seed).preference) == pytest.approx(1)


def test_draws_show_what_routers_meet() -> None:
    tasks = [draw_task(seed, requests=60) for seed in range(200)]
    models = [m for task in tasks for server in task.servers for m in server.models]
    objectives = [task.settings.objectives for task in tasks]
    assert {m.instances for m in models} == {1, 2, 4}
    assert {m.max_batch_size for m in models} == {1, 4, 8, 16, 32}
    assert any(m.energy_j is None for m in models)
    assert any(len(server.models) == 1 for task in tasks for server in task.servers)
    assert any(o.min_accuracy > 0 for o in objectives)
    assert {task.settings.workload.items for task in tasks} > {1, 2, 4, 8}
    assert min(requests_per_deadline(task) for task in tasks) < 0.5  # hardly anybody comes
    assert {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)} < {task.preference for task in tasks}


def test_the_curriculum_goes_back_to_where_the_policy_trails_and_can_be_kept() -> None:
    curriculum = Curriculum(1, requests=20)
    hard = None
    for number in range(30):
        episode = curriculum.next_episode()
        if episode.entry is None and hard is None and number > 3:
            hard = episode.seed
            curriculum.note(episode, episode.best - 100)
        else:
            curriculum.note(episode, episode.best - (100 if episode.seed == hard else 0))
    other = Curriculum(2, requests=20)
    other.restore(curriculum.state())
    nexts = [curriculum.next_episode().seed for _ in range(20)]
    assert nexts.count(hard) > 5  # half of them come from the pool
    assert [other.next_episode().seed for _ in range(20)] == nexts


def test_a_validation_of_the_base_is_what_the_base_earns() -> None:
    tasks = file_tasks([SCENARIO], requests=300)
    validations = prepare_validation(tasks, traces=2, base="lert:slack")
    score = validate(slim(), validations)
    assert score.over_base == pytest.approx(0, abs=1e-12)
    assert score.over_best <= 0
    expert, best = best_expert(tasks[0], 0)
    assert utility(tasks[0], simulate_totals(tasks[0], parse_policy(expert), 0)) == best


def test_every_option_of_the_command_has_a_setting_behind_it() -> None:
    own = {"kind", "out", "folder", "scenario", "beside", "paths", "length", "traces", "threads", "resume"}
    assert {option.name for option in train_router.params} - own <= {field.name for field in fields(TrainingSettings)}


def test_ppo_paper_is_trained_for_one_fleet_and_served(tmp_path: Path) -> None:
    out = tmp_path / "policies" / "paper.npz"
    command = ["train-router", "--policy", "ppo-paper", "--run", str(tmp_path / "run"), "--out", str(out)]
    small = ["--steps", "1024", "--worlds", "4", "--rollout", "64", "--requests", "50", "--traces", "1"]
    refused = CliRunner().invoke(main, [*command, *small])
    assert refused.exit_code == 1
    assert "name its scenario with --scenario" in refused.output
    run = CliRunner().invoke(main, [*command, *small, "--scenario", str(SCENARIO), "--threads", "1"])
    assert run.exit_code == 0, run.output
    assert f"wrote {out}: ppo-paper" in run.output
    found = read_policy_file(out)
    assert found.fleet == (2, 3, 6)
    assert found.provenance["scenario"] == "two-unlike"
    task = file_tasks([SCENARIO], requests=50)[0]
    totals = simulate_totals(task, LearnedPolicy(replace(found, low=found.low - 2, high=found.high + 2)), 1)
    assert totals["answered"] + totals["lost"] == 50
