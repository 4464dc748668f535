"""Learned policies in a simulation: what they do there is what they do decision by decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.policies.learned.paper import paper_shapes
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PolicyFile
from orchestrator.policies.protocol import Outcome
from orchestrator.simulation.results import summarise
from orchestrator.simulation.simulation import DECIDED, DISTRUSTED, Simulation
from tests.policies.learned.test_policy import slim, trained
from tests.simulation.test_world_batch import simulated, task


def narrow(file: PolicyFile) -> PolicyFile:
    return replace(file, low=np.full_like(file.low, -1), high=np.full_like(file.high, -0.5))


class OneByOne:
    """Asks a learned policy as the simulator asks a policy that it knows nothing of."""

    def __init__(self, policy: LearnedPolicy) -> None:
        self.policy, self.name, self.binding = policy, policy.name, policy.binding
        self.choose_row, self.is_observing, self.observe = policy.choose_row, False, self._observe
        self.choose = policy.choose

    def _observe(self, memory: object, outcome: Outcome) -> None:
        raise AssertionError("nothing is observed here")


@pytest.mark.parametrize("base", ["lert:slack", "model-switching", "alert,goal=1"])
def test_the_compiled_run_decides_as_the_policy_does_one_by_one(base: str) -> None:
    made, policy = task(3, load=0.9), LearnedPolicy(slim(base, weights=trained(), strength=2.0))
    runs = []
    for asked in (policy, OneByOne(policy)):
        simulation = Simulation(made.settings, made.servers, asked, seed=5)
        simulation.world.rule[:] = policy.base.numbers  # so that alert learns in both
        simulation.run()
        runs.append(summarise(simulation, seed=5))
    assert replace(runs[1], policy=runs[0].policy) == runs[0]


@pytest.mark.parametrize("base", ["lert:slack", "model-switching", "alert,goal=1"])
def test_where_it_does_not_trust_itself_its_base_decides(base: str) -> None:
    made = task(3, load=0.9)
    simulation = Simulation(made.settings, made.servers, LearnedPolicy(narrow(slim(base, weights=trained()))), seed=5)
    simulation.run()
    counts = simulation.learned_counts
    assert counts[DISTRUSTED] > 0.1 * counts[DECIDED] > 0  # in the others there was no choice
    alone = summarise(simulated(made, base, 5), seed=5)
    assert replace(summarise(simulation, seed=5), policy=base) == alone


def test_ppo_paper_runs_too_and_leaves_fleets_of_another_size_to_its_base() -> None:
    made, fleet = task(2, load=0.5), (2, 3, 4)
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(*fleet).items()}
    for size, trusted in (((2, 3, 4), True), ((3, 3, 3), False)):
        policy = LearnedPolicy(slim(kind="ppo-paper", weights=weights, fleet=size))
        simulation = Simulation(made.settings, made.servers, policy, seed=1)
        simulation.run()
        result, counts = summarise(simulation, seed=1), simulation.learned_counts
        assert result.answered == 300
        assert (
            bool(counts[DISTRUSTED] < 0.5 * counts[DECIDED]) is trusted
        )  # a server that is down makes it another fleet
        base = summarise(simulated(made, "lert:slack", 1), seed=1)
        assert (replace(result, policy="lert:slack") == base) is not trusted


def test_what_ppo_paper_leaves_to_its_base_is_decided_once_and_by_the_preference_of_its_file() -> None:
    made, fleet, own = task(2, load=0.5), (3, 3, 3), (0.05, 0.85, 0.1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(*fleet).items()}
    policy = LearnedPolicy(slim("thrift", kind="ppo-paper", weights=weights, fleet=fleet, preference=own))
    left, alone = (Simulation(made.settings, made.servers, each, seed=1) for each in (policy, policy.base))
    alone.prefer(own)
    for each in (left, alone):
        each.run()
    assert left.learned_counts[DISTRUSTED] == left.learned_counts[DECIDED] > 0
    assert summarise(left, seed=1) == replace(summarise(alone, seed=1), policy="ppo-paper")
