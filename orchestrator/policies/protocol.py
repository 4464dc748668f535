"""The protocol of every routing policy, and the binding that one may be given in place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from orchestrator.decision import Candidate, Decision, Hold, Reason
from orchestrator.policies.tables.compiled import Column, Table
from orchestrator.policies.tables.layout import Choice
from orchestrator.policies.tables.memory import Memory
from orchestrator.snapshot import QueueState, ServerName, Width


class Binding(StrEnum):
    """When a request is bound to a server and a width."""

    EARLY = "early"
    """A request is bound on arrival, as a load balancer does; it then waits in that server's queue."""
    LATE = "late"
    """A request is bound when a server has room; until then it waits in the family's one queue."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All a policy may look at besides the candidates.

    Attributes:
        now_s: the time on the router's clock.
        turn: how many decisions this router has made before.
        uniforms: two independent numbers in [0, 1), the only randomness there is.
        slack_margin: what expected times are multiplied by before they are held against a deadline, where nothing was
            observed that says by how much.
        memory: what this router's policies remember; the policy that is asked may change its own part of it. None:
            it decides as if for the first time.
        only_width: the policy in force takes the width nearest to it and no other, see
            orchestrator.policies.rule.only_width; None: it may take any.
    """

    queue: QueueState
    now_s: float
    turn: int
    uniforms: tuple[float, float]
    slack_margin: float
    memory: Memory | None = field(default=None, compare=False)
    only_width: float | None = None

    @property
    def head_slack_s(self) -> float:
        """Time until the head is due; negative when it is late already."""
        return self.queue.head_deadline_s - self.now_s

    def margin_of(self, candidate: Candidate) -> float:
        """Return how many times its expected time a candidate's answer may take."""
        return self.slack_margin if candidate.margin is None else candidate.margin

    def is_in_time(self, candidate: Candidate) -> bool:
        """Return whether a candidate's answer is expected to meet the head's deadline, with its margin."""
        return candidate.completion_s * self.margin_of(candidate) <= self.head_slack_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """A batch that was answered, as a policy learns of it.

    Attributes:
        expected_s: seconds that it was expected to take alone, before this was known; 0 when nothing was.
        slack_used: the most that a request of it used of the time that it had to spare, see ``slack_used``.
        is_in_time: whether all of it met its deadlines.
        now_s: when it was answered, on the router's clock.
    """

    server: ServerName
    width: Width
    items: int
    expected_s: float
    took_s: float
    slack_used: float
    is_in_time: bool
    now_s: float


def is_sendable(choice: Candidate, candidates: Sequence[Candidate], queue: QueueState) -> bool:
    """Return whether a policy may choose so: a server and width among the candidates, and a batch that can be sent."""
    return any(
        (c.server, c.width) == (choice.server, choice.width)
        and queue.head_items <= choice.items <= most_items(c, queue)
        for c in candidates
    )


def most_items(candidate: Candidate, queue: QueueState) -> int:
    """Return how many items a policy may send: the batch of a candidate, or a fuller batch of what waits.

    A candidate's own batch keeps the head's deadline and leaves to other servers what they would answer sooner
    (orchestrator.policies.tables.candidates). A policy that gives that up to drain a queue may take more.
    """
    return max(candidate.items, min(queue.items, candidate.max_batch_size))


class Policy(Protocol):
    """Chooses among candidates; a pure function of its arguments."""

    @property
    def name(self) -> str:
        """The name as written in fleet.yaml and reported in answers."""

    @property
    def binding(self) -> Binding:
        """When the policy wants to decide."""

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Return the candidate to dispatch, perhaps with another batch, or why to hold.

        Candidates are ordered by server name, then width; there may be none.
        """


@runtime_checkable
class ObservingPolicy(Policy, Protocol):
    """A policy that may want to know what became of the batches that were sent, whoever decided."""

    @property
    def is_observing(self) -> bool:
        """Whether the policy wants to know."""

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """Remember what counts of a batch that was answered."""

    def observe_miss(self, memory: Memory, now_s: float) -> None:
        """Remember that a request was refused because of load, or was not answered in time."""


@runtime_checkable
class RowPolicy(ObservingPolicy, Protocol):
    """A policy that decides on tables, see policies.tables.columns, so no values are made for a decision."""

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        """Return the row to dispatch (or HOLD or REJECT), the items, the reason's code, and until when to hold.

        It may change the expected times in ``rows`` to what it believes, and what it remembers in ``memory``, which is
        its own. Infinite is until something changes. Of the rows the first ``count`` are candidates, perhaps none.
        """


def rebind(policy: Policy, binding: Binding) -> Policy:
    """Return any policy bound early or late, whichever it was written for, so that both kinds can be compared.

    - A late rule bound early is asked when a request arrives and sees every server as if it had room: it takes the
      best, its waiting counted, where it would have held for it. That is what a load balancer in front of many queues
      does.
    - An early rule bound late is asked when a server has room and sees only those that have: round-robin takes turns
      among the free ones, join-the-shortest-queue is then the server with most room.
    """
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

    def observe_miss(self, memory: Memory, now_s: float) -> None:
        """Remember that a request was refused because of load, or was not answered in time."""
        if isinstance(self.policy, ObservingPolicy):
            self.policy.observe_miss(memory, now_s)
