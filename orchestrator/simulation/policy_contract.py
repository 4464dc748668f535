"""What every policy has to keep to, tried on simulated fleets: the test of a policy of one's own.

Worlds are a better source of cases than drawn candidates: what is offered hangs together as it does live. They are
chosen for what policies forget: bursts and overload, requests of several items, servers that fail, joules that nobody
knows, one width alone. Each decision is checked as the router's guard checks it, and asked for twice.

What a policy is worth is another question: ``slimsched simulate`` compares it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.decision import Candidate, Decision, Reason
from orchestrator.policies.circuit_breaker import find_fault
from orchestrator.policies.parsing import knobs_of, parse_policy
from orchestrator.policies.protocol import Binding, Policy, Situation
from orchestrator.simulation.scenario.settings import parse_scenario
from orchestrator.simulation.simulation import Simulation
from orchestrator.snapshot import QueueState, Width

_FLEET: Final = """
servers:
  - name: fast
    idle_w: 20
    widths:
      25: {accuracy: 0.90, item_ms: 0.4, group_ms: 1, item_mj: 12, group_mj: 30, sigma: 0.1}
      50: {accuracy: 0.92, item_ms: 1.0, group_ms: 1, item_mj: 30, group_mj: 30, sigma: 0.1}
      100: {accuracy: 0.93, item_ms: 3.0, group_ms: 1, item_mj: 90, group_mj: 30, sigma: 0.1}
  - name: slow
    idle_w: 8
    widths:
      25: {accuracy: 0.90, item_ms: 1.2, group_ms: 3, item_mj: 9, group_mj: 22, sigma: 0.2}
      100: {accuracy: 0.93, item_ms: 9.0, group_ms: 3, item_mj: 66, group_mj: 22, sigma: 0.2, instances: 2}
"""
_WITHOUT_JOULES: Final = """
servers:
  - {name: one, count: 3, widths: {50: {accuracy: 0.9, item_ms: 2, group_ms: 1, sigma: 0.3}}}
"""
_WORLDS: Final = {
    "bursts": _FLEET + "workload: {kind: gamma, cv2: 8, load_ratio: 0.6, requests: 300}",
    "overload": _FLEET + "workload: {load_ratio: 2, requests: 300}\nobjectives: {deadline_ms: 50, shed_late: true}",
    "several items": _FLEET + "workload: {load_ratio: 0.7, requests: 300, items: 5}",
    "failures": _FLEET
    + "workload: {load_ratio: 0.5, requests: 300}\nfaults: {fail_every_s: 0.3, down_s: 0.1, notice_s: 0.02}",
    "no joules and one width": _WITHOUT_JOULES + "workload: {load_ratio: 0.8, requests: 300}",
}


def check_policy(name: str) -> None:
    """Check a policy by name, as it is and with each of its knobs at its least and its most, see ``check_decisions``.

    Raises:
        AssertionError: It does not keep to the contract; says how, and in which world.
        ConfigError: There is no such policy, or it can't be made.
    """
    for spec in _specs(name):
        check_decisions(parse_policy(spec))


def check_decisions(policy: Policy) -> None:
    """Check all that a policy decides in the worlds.

    - It may be asked about no candidates at all, and then holds or rejects.
    - A choice is a server and a width that were offered, a batch that fits, and with late binding has room.
    - It holds only while a server has work, or until a time before the head is due.
    - Asked the same again it decides the same: what it remembers is in ``situation.memory``, or nowhere.

    Raises:
        AssertionError: It does not keep to one of these; says which, and in which world.
    """
    _check_nothing(policy)
    for world, text in _WORLDS.items():
        settings, servers = parse_scenario(f"name: contract\n{text}\n", source=world, folder=Path())
        Simulation(settings, servers, _Checked(policy, world)).run()


def _specs(name: str) -> Iterator[str]:
    yield name
    if "," not in name:
        for knob in knobs_of(name):
            for value in (knob.least, knob.most):
                yield f"{name},{knob.name}={value:g}"


def _check_nothing(policy: Policy) -> None:
    situation = Situation(QueueState(1, 1, 1.0, 1.0, (Width(50), Width(100))), 0.0, 0, (0.5, 0.5), 1.25)
    decision = policy.choose((), situation)
    if find_fault(decision, (), situation, binding=policy.binding, is_idle=True) is not None:
        raise AssertionError(f"{policy.name} is asked about no candidates and decides {decision}; hold or reject then")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A policy whose decisions are checked before they are made."""

    policy: Policy
    world: str

    @property
    def name(self) -> str:
        """The name of the policy that is checked."""
        return self.policy.name

    @property
    def binding(self) -> Binding:
        """That of the policy that is checked."""
        return self.policy.binding

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Return the policy's decision; raises AssertionError where it is none that a policy may make."""
        again = replace(situation, memory=copy.deepcopy(situation.memory))
        decision = self.policy.choose(candidates, situation)
        is_idle = not any(c.server_items for c in candidates)
        where = f"{self.name}, in the world {self.world!r} at {situation.now_s:.4f} s"
        fault = find_fault(decision, candidates, situation, binding=self.binding, is_idle=is_idle)
        reason = getattr(decision, "reason", None)
        if reason is not None and not isinstance(reason, Reason):
            raise AssertionError(f"{where}: the reason {reason!r} is no Reason")
        if fault is not None:
            raise AssertionError(f"{where}: {fault}, by {decision}")
        if (other := self.policy.choose(candidates, again)) != decision:
            raise AssertionError(f"{where}: {decision}, and asked the same again {other}")
        return decision
