"""Pure routing decisions: what could be done (candidates) and which of it is done (policies).

Nothing here knows a clock, a lot of its own, a network or a logger; time and lots come in as values. So the router
and a simulator call the very same functions, and a test needs no fakes.
"""

from orchestrator.routing.fleet_tables import FleetTables, build_candidates
from orchestrator.routing.occupancy import mark_begun
from orchestrator.routing.policy import Binding, Policy, RowPolicy, Situation, is_offered
from orchestrator.routing.registry import parse_policy, policy_names, prepare

__all__ = [
    "Binding",
    "FleetTables",
    "Policy",
    "RowPolicy",
    "Situation",
    "build_candidates",
    "is_offered",
    "mark_begun",
    "parse_policy",
    "policy_names",
    "prepare",
]
