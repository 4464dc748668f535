"""Compile what Numba compiles of decisions, simulator and learning: ``python -m tests.compile_ahead``.

Most of it several test modules need, and it takes as long as a good part of the tests. Processes of tests that start
together would each compile it, so ``make check`` does it before, beside the checks that leave a processor idle. What
is left out here is compiled by the first test that comes to it. Once for each version of the sources; then a second.
"""

from __future__ import annotations

from orchestrator.learning.curriculum import Curriculum
from orchestrator.learning.vector_env import FleetVecEnv
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preparation import prepare
from orchestrator.policies.tables.layout import REJECT
from orchestrator.simulation.simulation import Simulation
from tests.policies.learned.test_policy import slim
from tests.simulation.test_world_batch import task


def compile_all() -> None:
    """Decide, simulate by a rule, by a network and from outside, and step worlds to learn in."""
    prepare()
    made = task(requests=20)
    for policy in (parse_policy("lert"), LearnedPolicy(slim())):
        Simulation(made.settings, made.servers, policy).run()
    outside = Simulation(made.settings, made.servers, parse_policy("lert"))
    outside.decide_outside()
    while outside.next_decision() is not None:
        outside.apply(REJECT, 0.0)
    env = FleetVecEnv(Curriculum(0, only=made), worlds=2)
    env.reset()
    env.step(env.masks.argmax(axis=1))
    env.close()


if __name__ == "__main__":
    compile_all()
