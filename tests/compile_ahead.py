"""Compile what Numba compiles of decisions, simulator and learning: ``python -m tests.compile_ahead``.

Most of it several test modules need, and it takes as long as a good part of the tests. Processes of tests that start
together would each compile it, so ``make check`` does it before. It asks for no package that the product does not,
because the others are installed meanwhile. What is left out here is compiled by the first test that comes to it. Once
for each version of the sources; then a second.
"""

from __future__ import annotations

import numpy as np

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import pack, untrained
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import SLIM, PolicyFile
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preparation import prepare
from orchestrator.policies.tables.layout import REJECT
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.rollouts import RolloutBatch, new_rollout
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.simulation import Simulation
from orchestrator.snapshot import ServerName
from tests.simulation.worlds import scenario


def compile_all() -> None:
    """Decide, simulate by a rule, by a network and from outside, and step and explore worlds to learn in."""
    prepare()
    models = tuple(linear_model(width, per_item_s=width * 4e-5, per_item_j=1e-3) for width in (25, 100))
    made = Task(scenario(requests=20), tuple(SimulatedServer(ServerName(name), models) for name in "ab"))
    everywhere = np.ones(feat.FEATURES + feat.CONTEXT, np.float32)
    for policy in (parse_policy("lert"), LearnedPolicy(PolicyFile(SLIM, "lert", untrained(), -everywhere, everywhere))):
        Simulation(made.settings, made.servers, policy).run()
    outside = Simulation(made.settings, made.servers, parse_policy("lert"))
    outside.decide_outside()
    while outside.next_decision() is not None:
        outside.apply(REJECT, 0.0)
    batch, rollout = RolloutBatch(2), new_rollout(2, 1)
    for world in range(2):
        batch.load(world, made, world)
    batch.step(batch.settle().masks.argmax(axis=1))
    batch.collect(pack(untrained()), 5.0, np.full(2, np.inf), np.zeros((2, 1), np.float32), rollout)


if __name__ == "__main__":
    compile_all()
