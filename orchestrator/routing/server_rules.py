"""Rules that pick a server among candidates that a width rule has left.

Each takes candidates (not empty, ordered by server name) and the situation and returns one of them. Ties go to
the wider width, then to the first server by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.decision import Candidate, Reason
from orchestrator.routing.policy import Situation

ServerRule = Callable[[Sequence[Candidate], Situation], tuple[Candidate, Reason]]


def drawn(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """Every candidate is equally likely, however loaded its server: RAND of the load-balancing literature."""
    return candidates[int(situation.lots[1] * len(candidates))], Reason.DRAWN


def in_turn(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """Servers take turns in the order of their names: round-robin."""
    servers = sorted({c.server for c in candidates})
    server = servers[situation.turn % len(servers)]
    return max((c for c in candidates if c.server == server), key=lambda c: c.width), Reason.NEXT_IN_TURN


def fewest_items(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """The server that has the fewest items: join the shortest queue (JSQ), also called least connections."""
    best = min(candidates, key=lambda c: (c.server_items, -c.width, c.server))
    return best, Reason.FEWEST_ITEMS


def least_completion(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """The server from which the head's answer is expected first: least expected response time (LERT)."""
    best = min(candidates, key=lambda c: (c.head_completion_s, -c.width, c.server))
    return best, Reason.LEAST_COMPLETION
