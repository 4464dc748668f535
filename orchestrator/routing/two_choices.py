"""Power of two choices: draw two servers, take the better.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001). The herd of many
routers that all see the same state can't rush to one server, because each looks at another pair; so it stays good
where the state is stale (Mitzenmacher, "How Useful Is Old Information?", TPDS 11(1), 2000). On unlike servers two
equally likely draws are not throughput-optimal (arXiv 2004.00538): a pair of slow servers is drawn
as often as any. The comparison by expected completion softens that, and does not cure it.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.decision import Candidate, Reason
from orchestrator.routing import server_rules
from orchestrator.routing.policy import Situation


def sooner_of_two(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """Of two distinct servers, each pair equally likely, the one from which the head's answer is expected first."""
    return server_rules.least_completion(_two_servers(candidates, situation), situation)[0], Reason.BETTER_OF_TWO


def emptier_of_two(candidates: Sequence[Candidate], situation: Situation) -> tuple[Candidate, Reason]:
    """Of two distinct servers, each pair equally likely, the one with fewer items: the rule as first published."""
    return server_rules.fewest_items(_two_servers(candidates, situation), situation)[0], Reason.BETTER_OF_TWO


def _two_servers(candidates: Sequence[Candidate], situation: Situation) -> Sequence[Candidate]:
    """Return the candidates of two servers; one lot names an ordered pair out of n·(n − 1)."""
    servers = sorted({c.server for c in candidates})
    if len(servers) <= 2:
        return candidates
    first, second = divmod(int(situation.lots[1] * len(servers) * (len(servers) - 1)), len(servers) - 1)
    second += second >= first  # skips the first
    return [c for c in candidates if c.server in (servers[first], servers[second])]
