"""Policies that pick server, width and group together, from one queue, when a server has room.

The frame of SuperServe's scheduler (Khare et al., NSDI'25, arXiv 2312.16733): requests wait in one queue, earliest
deadline first, and a worker that is idle is given the head and those behind it. Its workers are alike and idle when
they ask. Ours are unlike and may be asked while a group runs, so the frame adds what follows from that:

- A latency counts what the server still has to do first, and is that server's own.
- Where no server with room can meet the head's deadline and a busy one can, the head waits for it. In a fleet of
  like servers that never happens.
- Where none can, the width that drains the queue first goes to the server that answers first, as in ``lert:slack``.
- A group is never larger than the candidate says, which keeps a slow server from taking what a fast one would answer
  sooner (see orchestrator.routing.candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.routing import server_rules, width_rules
from orchestrator.routing.policy import Binding, Situation

CentralRule = Callable[[Sequence[Candidate], Sequence[Candidate], Situation], tuple[Candidate, Reason]]
"""Picks among the first candidates (not empty), which have room and meet the head's deadline; it may shrink the group.
The second are all there are, for rules that need a scale."""


@dataclass(frozen=True, slots=True)
class CentralPolicy:
    """A rule for what is in time and has room, and what to do when there is no such thing."""

    name: str
    rule: CentralRule

    @property
    def binding(self) -> Binding:
        """Late: that is the point."""
        return Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """See Policy."""
        if not candidates:
            return Hold(Reason.NO_CANDIDATE)
        timely = [c for c in candidates if situation.is_in_time(c.completion_s)]
        ready = [c for c in timely if c.has_room]
        if ready:
            return Dispatch(*self.rule(ready, candidates, situation))
        if timely:
            return Hold(Reason.BETTER_SERVER_BUSY)
        chosen, _ = server_rules.least_completion(width_rules.soonest_drained(candidates), situation)
        return Dispatch(chosen, Reason.NONE_IN_TIME) if chosen.has_room else Hold(Reason.BETTER_SERVER_BUSY)
