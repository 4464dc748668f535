"""Pure routing decisions: what could be done (candidates) and which of it is done (policies).

Nothing here knows a clock, a lot of its own, a network or a logger; time and lots come in as values. So the router
and a simulator call the very same functions, and a test needs no fakes.
"""

from orchestrator.routing.fleet_tables import FleetTables, build_candidates
from orchestrator.routing.guard import Breaker, Fault, find_fault
from orchestrator.routing.memory import Memory
from orchestrator.routing.occupancy import mark_begun
from orchestrator.routing.offers import Offers
from orchestrator.routing.parsing import knobs_of, parse_policy
from orchestrator.routing.policy import Binding, ObservingPolicy, Outcome, Policy, RowPolicy, Situation, is_offered
from orchestrator.routing.preferred import PreferredPolicy, parse_preference
from orchestrator.routing.preparation import is_prepared, prepare
from orchestrator.routing.rebinding import rebind
from orchestrator.routing.registry import has_width_rule, policy_names

__all__ = [
    "Binding",
    "Breaker",
    "Fault",
    "FleetTables",
    "Memory",
    "ObservingPolicy",
    "Offers",
    "Outcome",
    "Policy",
    "PreferredPolicy",
    "RowPolicy",
    "Situation",
    "build_candidates",
    "find_fault",
    "has_width_rule",
    "is_offered",
    "is_prepared",
    "knobs_of",
    "mark_begun",
    "parse_policy",
    "parse_preference",
    "policy_names",
    "prepare",
    "rebind",
]
