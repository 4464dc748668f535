"""What is known of a server that has been silent for too long.

A router knows at once what it sends, so its account of a server is never late about its own load: all that was sent
since the last answer is counted, and the group that runs is aged by the time it has run. What gets old is the belief
in the server's speed. It rests on answers, and a server that has become slow, is busy for someone else or hangs is
silent just when there would be news. But silence is news as well: a group that was expected to take E and still runs
after e > E takes at least e, so the server is now at least e/E times slower than believed.

This is the correction for one's own dispatches that stale load information asks for (Mitzenmacher, TPDS 11(1), 2000;
Dahlin, "Interpreting Stale Load Information", TPDS 11(10), 2000), with the slow-down factor of ALERT (ATC'20) bounded
from below by a measurement that is not over yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.decision import Candidate


def corrected(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidates with each server's expected times stretched by how overdue it is.

    The factor is e/E of the most overdue group that the server runs, in which E holds the slack margin already; and
    1, so that nothing changes, while it is in time. It applies to all that is expected of that server, what it
    holds and the new group alike. ``drain_s``, a figure of the whole fleet, stays.
    """
    return [_stretch(c) if c.overdue_ratio > 1 else c for c in candidates]


def _stretch(candidate: Candidate) -> Candidate:
    ratio = candidate.overdue_ratio
    return replace(
        candidate,
        service_s=candidate.service_s * ratio,
        completion_s=candidate.completion_s * ratio,
        head_completion_s=candidate.head_completion_s * ratio,
        wait_s=candidate.wait_s * ratio,
        item_s=candidate.item_s * ratio,
        group_s=candidate.group_s * ratio,
        overdue_ratio=1.0,
    )
