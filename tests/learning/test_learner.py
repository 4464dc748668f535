"""PPO for some time: it keeps the best that was validated, and goes back to it when it gets lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.executors import Executor, run_on
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.learner import STRENGTHS, PpoLearner
from orchestrator.learning.objective import run_policy
from orchestrator.learning.ppo.training import Ppo, PpoSettings, Round
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import HOLD_ACTION
from orchestrator.policies.learned.network import SHAPES
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PolicyFile
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Policy
from orchestrator.simulation.simulation import DECIDED, DISTRUSTED, Simulation
from tests.learning.worlds import WASTEFUL, costly_traffic

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
SETTINGS = PpoSettings(choices=2048, replicas=4, segment=4.0, learning_rate=3e-3)


class Clock:
    """On which looking takes a second, and a validation ``validation_s`` for each policy that it tries."""

    def __init__(self, validation_s: float) -> None:
        self._now_s, self._validation_s = 0.0, validation_s

    def __call__(self) -> float:
        self._now_s += 1.0
        return self._now_s

    def slow(self, execute: Executor) -> Executor:
        """The same executor, which takes that long."""

        def run(function: Any, jobs: Any) -> Any:
            self._now_s += self._validation_s
            return execute(function, jobs)

        return run


def learn(
    traffic: Traffic, folder: Path, *, seconds: float, validation_s: float = 0.0
) -> tuple[PolicyFile, tuple[Round, ...], list[str]]:
    """What comes of a base that wastes joules: the best, the rounds, and what each validation said."""
    clock, said = Clock(validation_s), list[str]()
    with ThreadPoolExecutor(1) as pool:
        learner = PpoLearner(
            traffic,
            WASTEFUL,
            SETTINGS,
            RunFolder(folder, {}, resume=True),
            "ppo",
            seconds=seconds,
            seed=0,
            threads=1,
            execute=clock.slow(run_on(pool, lambda: 1)),
            clock=clock,
        )
        file, rounds, _ = learner.run(lambda part, line: said.append(line))
    return file, rounds, [line for line in said if line]


def utility(traffic: Traffic, policy: Policy) -> float:
    figures = [run_policy(traffic.task, policy, trace)["utility"] for trace in traffic.held_out()]
    return float(np.mean([figure or 0.0 for figure in figures]))


def test_what_comes_out_is_better_than_the_base_and_may_rest_on_it_less_than_what_explored(tmp_path: Path) -> None:
    traffic = costly_traffic()
    file, _, said = learn(traffic, tmp_path, seconds=60.0)
    base, best = (utility(traffic, parse_policy(name)) for name in (WASTEFUL, "lert:narrowest"))
    assert utility(traffic, LearnedPolicy(file)) > base + 0.5 * (best - base) > base
    assert file.strength in {part * SETTINGS.strength for part in STRENGTHS[1:]}
    assert said[-1].startswith("ppo: ")


def test_what_has_learned_nothing_is_its_base_and_trusts_itself_with_what_it_has_seen(tmp_path: Path) -> None:
    traffic = costly_traffic()
    file, rounds, _ = learn(traffic, tmp_path, seconds=0.0)
    assert len(rounds) == 1
    assert file.high[feat.FEATURES + feat.CONTEXT_QUEUE] > file.low[feat.FEATURES + feat.CONTEXT_QUEUE]
    policy, trace = LearnedPolicy(file), traffic.held_out()[0]
    simulation = Simulation(traffic.task.settings, traffic.task.servers, policy, trace=trace)
    simulation.run()
    assert simulation.learned_counts[DISTRUSTED] < 0.5 * simulation.learned_counts[DECIDED]  # of one round


def test_validations_take_their_part_of_the_time_and_no_more(tmp_path: Path) -> None:
    _, rounds, said = learn(costly_traffic(), tmp_path, seconds=120.0, validation_s=5.0)
    assert 2 <= len(said) < len(rounds) / 2


def always_holding() -> dict[str, NDArray[np.float32]]:
    """Weights that hold wherever they may."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    weights["unsent.bias"][HOLD_ACTION] = 100
    return weights


def test_an_actor_that_has_lost_its_way_goes_back_to_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, found, own = costly_traffic(), list[Ppo](), Ppo.round

    def losing(ppo: Ppo) -> Round:
        made = own(ppo)
        found.append(ppo)
        if len(found) > 6:
            ppo.return_to(always_holding())
        return made

    monkeypatch.setattr(Ppo, "round", losing)
    file, rounds, said = learn(traffic, tmp_path, seconds=60.0)
    assert len(rounds) > 7
    utilities = [line.split("utility ")[1] for line in said]
    assert utilities[-1][:6] < utilities[-1].split("best ")[1][:6]
    for net in (found[-1].policy.scoring, found[-1].policy.average_net):
        for name, weight in net.export_weights().items():
            np.testing.assert_array_equal(weight, file.weights[name])


def test_an_interruption_costs_nothing_that_was_kept(tmp_path: Path) -> None:
    traffic = costly_traffic()
    first, _, _ = learn(traffic, tmp_path, seconds=40.0)
    again, rounds, said = learn(traffic, tmp_path, seconds=41.0)
    assert len(rounds) <= 2
    assert said
    chosen = [
        np.mean([run_policy(traffic.task, LearnedPolicy(file), trace)["utility"] for trace in traffic.validating()])  # type: ignore[arg-type]
        for file in (first, again)
    ]
    assert chosen[1] >= chosen[0]
