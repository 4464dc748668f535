"""Any policy with early or with late binding, whichever it was written for.

- A late rule bound early is asked when a request arrives and sees every server as if it had room: it takes the best,
  its waiting counted, where it would have held for it. That is what a load balancer in front of many queues does.
- An early rule bound late is asked when a server has room and sees only those that have: round-robin takes turns among
  the free ones, join-the-shortest-queue is then the server with most room.

So both kinds can be compared at equal rules, and what late binding is worth can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.decision import Candidate, Decision, Hold, Reason
from orchestrator.policies.protocol import Binding, ObservingPolicy, Outcome, Policy, Situation
from orchestrator.policies.tables.memory import Memory


def rebind(policy: Policy, binding: Binding) -> Policy:
    """Return a policy that decides by the same rule, bound as told."""
    return policy if policy.binding is binding else _Rebound(policy, binding)


@dataclass(frozen=True, slots=True)
class _Rebound:
    """A policy that is bound otherwise than it was written for."""

    policy: Policy
    binding: Binding

    @property
    def name(self) -> str:
        """The name of the policy that is bound otherwise."""
        return self.policy.name

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Decide, see ``Policy``."""
        if self.binding is Binding.EARLY:
            return self.policy.choose([c if c.has_room else replace(c, has_room=True) for c in candidates], situation)
        ready = [c for c in candidates if c.has_room]
        if candidates and not ready:
            return Hold(Reason.BETTER_SERVER_BUSY)
        return self.policy.choose(ready, situation)

    @property
    def is_observing(self) -> bool:
        """Whether the policy wants to know of answered batches."""
        return isinstance(self.policy, ObservingPolicy) and self.policy.is_observing

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """Remember what counts of an answered batch."""
        if isinstance(self.policy, ObservingPolicy):
            self.policy.observe(memory, outcome)
