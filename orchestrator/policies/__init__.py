"""Pure routing decisions: what could be done (candidates) and which of it is done (policies).

Nothing here knows a clock, randomness of its own, a network or a logger; time and random numbers come in as values. So
the router and a simulator call the very same functions, and a test needs no fakes.
"""

from orchestrator.policies.binding import rebind
from orchestrator.policies.circuit_breaker import Breaker, Fault, find_fault
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import knobs_of, parse_policy
from orchestrator.policies.preference import PreferredPolicy, parse_preference
from orchestrator.policies.preparation import is_prepared, prepare
from orchestrator.policies.protocol import Binding, ObservingPolicy, Outcome, Policy, RowPolicy, Situation
from orchestrator.policies.registry import has_width_rule, policy_names
from orchestrator.policies.tables.memory import Memory
from orchestrator.policies.tables.occupancy import mark_begun

__all__ = [
    "Binding",
    "Breaker",
    "CandidateSet",
    "Fault",
    "FleetTables",
    "Memory",
    "ObservingPolicy",
    "Outcome",
    "Policy",
    "PreferredPolicy",
    "RowPolicy",
    "Situation",
    "find_fault",
    "has_width_rule",
    "is_prepared",
    "knobs_of",
    "mark_begun",
    "parse_policy",
    "parse_preference",
    "policy_names",
    "prepare",
    "rebind",
]
