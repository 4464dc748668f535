"""Candidates and questions written out, for hand-worked examples of policies."""

from __future__ import annotations

from typing import Any

from orchestrator.decision import Candidate, Decision, Dispatch
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Outcome, Situation
from orchestrator.policies.tables.memory import Memory
from orchestrator.snapshot import QueueState, ServerName, Width

WIDTHS = tuple(Width(w) for w in (25, 50, 75, 100))


def candidate(server: str = "a", width: int = 100, **values: Any) -> Candidate:
    defaults = {
        "items": 1,
        "accuracy": width / 100,
        "service_s": 0.01,
        "completion_s": 0.01,
        "drain_s": 0.01,
        "server_items": 0,
        "has_room": True,
        "wait_s": 0.0,
        "per_item_s": 0.01,
        "fixed_s": 0.0,
        "max_batch_size": 32,
        "instances": 1,
        "overdue_ratio": 1.0,
    }
    values = {**defaults, **values}
    values.setdefault("head_completion_s", values["completion_s"])
    return Candidate(ServerName(server), Width(width), **values)


def line_candidate(
    server: str = "a", width: int = 100, *, per_item_s: float, fixed_s: float = 0.0, wait_s: float = 0.0, **values: Any
) -> Candidate:
    """Return a candidate whose times follow from its line and its wait."""
    items = values.setdefault("items", 1)
    times = {
        "per_item_s": per_item_s,
        "fixed_s": fixed_s,
        "wait_s": wait_s,
        "service_s": per_item_s * items + fixed_s,
        "completion_s": wait_s + per_item_s * items + fixed_s,
        "head_completion_s": wait_s + per_item_s + fixed_s,
    }
    return candidate(server, width, **{**times, **values})


class Asker:
    """Asks one policy again and again, as a router with a memory does, each time about one that has just come."""

    def __init__(self, policy: str, *, margin: float = 1.0) -> None:
        self.policy = parse_policy(policy)
        self.memory = Memory()
        self._margin = margin
        self._arrived_items = 0

    def query(
        self,
        candidates: list[Candidate],
        *,
        now_s: float = 0.0,
        items: int = 1,
        slack_s: float = 0.1,
        uniform: float = 0.0,
        arrived_s: float | None = None,
    ) -> Decision:
        """Return what it decides about a head that is due in ``slack_s``, and ``items`` with it."""
        deadline_s = now_s + slack_s
        self._arrived_items += 1
        arrived = {"head_arrived_s": arrived_s, "arrived_items": self._arrived_items}
        queue = QueueState(items, 1, deadline_s, deadline_s, WIDTHS, **arrived)
        situation = Situation(
            queue, now_s, turn=0, uniforms=(uniform, uniform), slack_margin=self._margin, memory=self.memory
        )
        return self.policy.choose(candidates, situation)

    def choice(self, candidates: list[Candidate], **question: Any) -> tuple[str, int, int]:
        """Return server, width and items of what it dispatches."""
        decision = self.query(candidates, **question)
        assert isinstance(decision, Dispatch), decision
        return decision.candidate.server, decision.candidate.width, decision.candidate.items

    def observe(
        self,
        server: str = "a",
        width: int = 100,
        *,
        items: int = 1,
        expected_s: float = 0.01,
        took_s: float = 0.01,
        slack_used: float = 0.0,
        is_in_time: bool = True,
        now_s: float = 0.0,
    ) -> None:
        """Let the policy observe an answered batch."""
        outcome = Outcome(ServerName(server), Width(width), items, expected_s, took_s, slack_used, is_in_time, now_s)
        self.policy.observe(self.memory, outcome)

    def miss(self, now_s: float) -> None:
        """Let the policy observe that a request was refused because of load, or was not answered in time."""
        self.policy.observe_miss(self.memory, now_s)
