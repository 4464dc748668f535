"""Rules that narrow the candidates down to one width, or to few.

Each takes the candidates (not empty) and the situation and returns a part of the candidates that is not empty
either; a server rule then picks one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.decision import Candidate
from orchestrator.routing.policy import Situation
from orchestrator.snapshot import Width

WidthRule = Callable[[Sequence[Candidate], Situation], Sequence[Candidate]]


def of_width(candidates: Sequence[Candidate], width: Width) -> Sequence[Candidate]:
    """Return the candidates of ``width``."""
    return [c for c in candidates if c.width == width]


def drawn_width(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
    """Every width is equally likely: the dispatch that the Slim Scheduler paper compares itself with."""
    widths = sorted({c.width for c in candidates})
    return of_width(candidates, widths[int(situation.lots[0] * len(widths))])


def widest(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
    """Always the widest there is: the most accuracy, whatever the load."""
    return of_width(candidates, max(c.width for c in candidates))


def narrowest(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
    """Always the narrowest there is: the least work, whatever the accuracy."""
    return of_width(candidates, min(c.width for c in candidates))


def fixed(width: Width) -> WidthRule:
    """Return the rule that takes ``width``, or the nearest allowed one when a request forbids it."""

    def rule(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
        nearest = min((abs(c.width - width), c.width) for c in candidates)[1]
        return of_width(candidates, nearest)

    return rule


def by_slack(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
    """The widest width at which the head meets its deadline and the queue behind it drains in time.

    Looking at the head alone would spend all its slack on accuracy and leave none to those behind, so a backlog
    must also drain, at that width on all servers, before nine of ten in the queue are due. When no width does both,
    the one that drains first is taken.
    """
    margin = situation.slack_margin
    tail_slack_s = situation.queue.tail_deadline_s - situation.now_s
    in_time = [c for c in candidates if situation.is_in_time(c.completion_s) and c.drain_s * margin <= tail_slack_s]
    if in_time:
        return of_width(in_time, max(c.width for c in in_time))
    return soonest_drained(candidates)


def soonest_drained(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidates of the width at which all that waits is answered first."""
    return of_width(candidates, min((c.drain_s, c.width) for c in candidates)[1])
