"""What could be done with the head of a queue, as a router holds it: rows of tables, and values for whoever needs them.

A policy that decides on rows is asked on them, so that the usual decision makes one value, that of what was chosen.
Everybody else (a policy of values, the fallback in its place, the decision log, whoever sheds) reads ``candidates``,
which are made when they are first asked for and never again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from orchestrator.decision import Candidate, Decision, Dispatch, Hold
from orchestrator.policies.circuit_breaker import Fault, find_fault, is_bounded
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.protocol import Binding, Policy, RowPolicy, Situation
from orchestrator.snapshot import ModelName, ServerName


class CandidateSet:
    """Candidates for one decision; of use until the tables are filled for the next one.

    Servers to avoid are used only where there are no others.

    Attributes:
        least: what all that are reachable show of the queue.
        drain_s: the least expected time until all that waits is answered at one width; 0 when there is no candidate.
    """

    def __init__(self, tables: FleetTables, situation: Situation, avoided: Collection[ServerName] = ()) -> None:
        self._tables = tables
        self.situation = situation
        self._avoided = avoided
        self._count = tables.fill(situation, avoided)
        self._values: tuple[Candidate, ...] | None = None
        self._reachable: tuple[Candidate, ...] | None = None
        self._is_touched = False  # by a policy, which may have written what it believes into the rows
        self.least = tables.least_times(self._count)
        self.drain_s = self.least.drain_s

    def __bool__(self) -> bool:
        return self._count > 0

    def least_answer_s(self, items: int, longest_s: float, is_beyond_help: bool) -> float:
        """Return when a head of so many items is answered at the soonest, see orchestrator.policies.queue_rules.

        By any server that is reachable.
        """
        if self._reachable is not None or self._is_touched:
            self._tables.fill(self.situation, self._avoided)
        return self._tables.least_answer_s(self._count, items, longest_s, is_beyond_help)

    def soonest_s(self) -> Mapping[ServerName, float]:
        """Return in how long each reachable server is expected to answer the head alone, seconds without any margin."""
        if self._reachable is not None or self._is_touched:
            self._tables.fill(self.situation, self._avoided)
        return self._tables.soonest_s(self._count)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates as values, ordered by server name, then width."""
        if self._values is None:
            if self._is_touched:
                self._tables.fill(self.situation, self._avoided)
            self._values = self._tables.read_candidates(self._count)
        return self._values

    @property
    def reachable(self) -> tuple[Candidate, ...]:
        """The candidates and those that were excluded."""
        return self.candidates if self._reachable is None else self._reachable

    @property
    def is_whole(self) -> bool:
        """Whether none was excluded."""
        return self._reachable is None

    def exclude(self, servers: Collection[ServerName], models: Collection[tuple[ServerName, ModelName]]) -> None:
        """Leave out the candidates of some servers and models, as far as there are others.

        Servers to avoid are left out likewise.
        """
        self._reachable = self.candidates
        for avoided in ({*self._avoided, *servers}, self._avoided):
            trusted = self._tables.candidates(self.situation, avoided=avoided, without=models)
            if any(c.server not in avoided for c in trusted):
                break
        if trusted:
            self._values = trusted
            self.drain_s = min(c.drain_s for c in trusted)

    def prepare(self, policy: Policy) -> None:
        """Make the values that a policy will be asked about, if it needs any, so that they are not in its time."""
        if not self._is_on_rows(policy):
            _ = self.candidates

    def _is_on_rows(self, policy: Policy) -> bool:
        """Return whether a policy decides on the rows as they were filled; not one with a margin of its own."""
        if self._reachable is not None or self._is_touched:
            return False
        # An isinstance of a protocol would take longer than all the rest.
        return getattr(policy, "choose_row", None) is not None and getattr(policy, "slack_margin", None) is None

    def decide(self, policy: Policy, *, is_idle: bool, binding: Binding) -> tuple[Decision, Fault | None]:
        """Return what a policy decides, and what is wrong with that, see ``find_fault``; raises whatever it raises."""
        situation = self.situation
        if not self._is_on_rows(policy):
            decision = policy.choose(self.candidates, situation)
            return decision, find_fault(decision, self.candidates, situation, binding=binding, is_idle=is_idle)
        self._is_touched = True
        decision, row_items = self._tables.choose(cast(RowPolicy, policy), self._count)
        if isinstance(decision, Dispatch):
            chosen = decision.candidate
            most = max(row_items, min(situation.queue.items, chosen.max_batch_size))  # as most_items
            is_possible = situation.queue.head_items <= chosen.items <= most
            has_room = binding is not Binding.LATE or chosen.has_room
            return decision, None if is_possible and has_room else Fault.NOT_OFFERED
        if isinstance(decision, Hold) and is_idle and self._count and not is_bounded(decision, situation):
            return decision, Fault.STARVING
        return decision, None
