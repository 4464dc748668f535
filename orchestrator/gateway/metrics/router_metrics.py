"""The router's events as metrics of the gateway.

Labels are bounded: reasons are a handful of words of ours, servers are the fleet's.
"""

from __future__ import annotations

from orchestrator.gateway.metrics.snapshot import Measure, MetricSnapshot, observe
from orchestrator.router import Backlog, RouterObserver
from orchestrator.snapshot import ServerName, Width

# A rule over a handful of candidates takes some ten microseconds, and what takes milliseconds delays everybody.
_POLICY_BOUNDS_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1)

_POLICY = Measure(
    "slim_router_policy_seconds", "What the policy took for a decision.", bounds=_POLICY_BOUNDS_S, kind="histogram"
)
_FALLBACKS = Measure(
    "slim_router_fallbacks", "Decisions that the fallback took in place of the policy, by why.", ("reason",)
)
_SHADOW = Measure(
    "slim_router_shadow_decisions",
    "Decisions that the shadow policy was asked about, by how it compared.",
    ("outcome",),
)
_SHEDS = Measure("slim_router_sheds", "Requests that were given up because of load, by why.", ("reason",))
_RETRIES = Measure(
    "slim_router_retries", "Requests that wait for another attempt after one on that server.", ("server",)
)
_HEDGES = Measure(
    "slim_router_hedges", "Requests of which a second copy waits while that server has the first.", ("server",)
)
_EJECTIONS = Measure(
    "slim_router_ejections", "How often a server, or a width on it, was taken out, by why.", ("server", "reason")
)
_GROUPS = Measure("slim_router_groups_in_flight", "Groups sent and not answered.", ("server",), kind="gauge")
_QUEUED = tuple(
    Measure(f"slim_router_queue_{what}", f"{words} that wait in the router.", kind="gauge")
    for what, words in (("requests", "Requests"), ("items", "Items"), ("bytes", "Bytes of tensors"))
)

MEASURES = (_POLICY, _FALLBACKS, _SHADOW, _SHEDS, _RETRIES, _HEDGES, _EJECTIONS, _GROUPS, *_QUEUED)


class RouterMetrics(RouterObserver):
    """Counts the events of a router in a snapshot."""

    def __init__(self, live: MetricSnapshot) -> None:
        self._live = live
        self._policy = live.numbers(_POLICY)

    def on_decision(self, policy_s: float) -> None:
        """See RouterObserver."""
        observe(self._policy, _POLICY_BOUNDS_S, policy_s)

    def on_fallback(self, reason: str) -> None:
        """See RouterObserver."""
        self._count(_FALLBACKS, reason)

    def on_shadow(self, outcome: str) -> None:
        """See RouterObserver."""
        self._count(_SHADOW, outcome)

    def on_shed(self, reason: str, items: int) -> None:
        """See RouterObserver."""
        self._count(_SHEDS, reason)

    def on_sent(self, server: ServerName, width: Width, items: int) -> None:
        """See RouterObserver."""
        self._count(_GROUPS, server)

    def on_ended(self, server: ServerName, width: Width, items: int) -> None:
        """See RouterObserver."""
        self._count(_GROUPS, server, amount=-1.0)

    def on_retry(self, server: ServerName) -> None:
        """See RouterObserver."""
        self._count(_RETRIES, server)

    def on_hedge(self, server: ServerName) -> None:
        """See RouterObserver."""
        self._count(_HEDGES, server)

    def on_wrong_answer(self, server: ServerName, width: Width) -> None:
        """See RouterObserver."""
        self._count(_EJECTIONS, server, "wrong")

    def on_ejection(self, server: ServerName, reason: str) -> None:
        """See RouterObserver."""
        self._count(_EJECTIONS, server, reason)

    def _count(self, measure: Measure, *labels: str, amount: float = 1.0) -> None:
        self._live.numbers(measure, labels)[0] += amount


def put_backlog(snapshot: MetricSnapshot, backlog: Backlog) -> None:
    """Write what waits into a snapshot."""
    amounts = (backlog.requests, backlog.items, backlog.size_bytes)
    for measure, amount in zip(_QUEUED, amounts, strict=True):
        snapshot.numbers(measure)[0] = float(amount)
