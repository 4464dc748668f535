"""Pure routing decisions: what could be done (candidates) and which of it is done (policies).

Nothing here knows a clock, a lot of its own, a network or a logger; time and lots come in as values. So the router
and a simulator call the very same functions, and a test needs no fakes.
"""

from orchestrator.routing.candidates import build_candidates
from orchestrator.routing.occupancy import mark_begun
from orchestrator.routing.policy import Binding, Policy, Situation, is_offered
from orchestrator.routing.registry import parse_policy, policy_names

__all__ = [
    "Binding",
    "Policy",
    "Situation",
    "build_candidates",
    "is_offered",
    "mark_begun",
    "parse_policy",
    "policy_names",
]
