"""What a request prefers once it is in time: accuracy, an early answer, little energy, weighed by the request itself.

A request that says so is decided by this policy, whatever the router's own is. Deadlines come first: candidates that
are in time for the head, at a width that lets the queue behind it drain in time, are weighed; when there are none, the
width that drains first goes to the server that answers first, as everywhere. So a preference never makes others late.

Of those that are in time each gets

    accuracy · (a − a₀)/(a₁ − a₀)  −  latency · margin·t/slack  −  energy · (e − e₀)/(e₁ − e₀)

with a the accuracy, t the expected completion and e the expected joules an item, and the least and the most of them
among all that are weighed. Each term lies in 0..1, so weights mean the same on every fleet: the weighted sum of
normalised objectives of the multi-criteria literature. Its known limit, that a sum finds no point in a dent of the
Pareto front, is of no weight among some dozen candidates. Where no energy is known that term is left out; where some
is, a candidate without counts as the dearest, because unknown is not free. Ties go to the wider width, then to the
first server by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate, Decision
from orchestrator.policies.fleet.row_values import choose_among
from orchestrator.policies.protocol import Binding, Outcome, Situation
from orchestrator.policies.rules.by_preference import choose_preferred
from orchestrator.policies.tables.compiled import Column, Table
from orchestrator.policies.tables.layout import Choice
from orchestrator.policies.tables.memory import Memory


@dataclass(frozen=True, slots=True)
class PreferredPolicy:
    """Takes what suits the head's preference best of all that is in time; without one, what is most accurate.

    It is a ``RowPolicy`` that remembers nothing. A better candidate that is busy is waited for, as long as it is in
    time.
    """

    name: str = "preferred"
    binding: Binding = Binding.LATE
    is_observing: bool = False

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Decide, see ``Policy``."""
        return choose_among(self, candidates, situation)

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        """Decide on rows, see ``RowPolicy``."""
        return choose_preferred(rows, count, query, False)

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """Remember nothing."""

    def observe_miss(self, memory: Memory, now_s: float) -> None:
        """Remember nothing."""
