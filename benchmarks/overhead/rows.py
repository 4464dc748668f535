"""A run held against the bars."""

from __future__ import annotations

from benchmarks.overhead.cells import Load, Results, Way, middle
from orchestrator.reporting.claim import Claim
from orchestrator.snapshot import Width

NARROWEST, FULL = Width(25), Width(100)
_IN_PROCESS = (Way.RAW, Way.ROUTER)
_PROXIES = (Way.DIRECT, Way.ENVOY, Way.GATEWAY)
LOADS = (
    Load(_IN_PROCESS, 1, NARROWEST),
    Load(_IN_PROCESS, 32, NARROWEST),
    Load(_PROXIES, 1, NARROWEST),
    Load(_PROXIES, 32, NARROWEST),
    Load(_PROXIES, 32, FULL),
)
ROUTER_P50_BAR, ROUTER_RATE_BAR = 1.10, 2.0
GATEWAY_P50_BAR, GATEWAY_RATE_BAR = 1.15, 1.0


def draw_rows(results: Results) -> tuple[Claim, ...]:
    """Return the bars with what was measured, ratios of medians."""
    one, many, proxied_one, proxied_narrow, proxied_full = LOADS

    def ratio(ours: Way, theirs: Way, load: Load, name: str) -> float | None:
        upper, lower = (middle(results.of(way, load), name) for way in (ours, theirs))
        return None if upper is None or not lower else upper / lower

    def row(ours: Way, theirs: Way, load: Load, bar: float) -> Claim:
        is_rate = load.concurrency > 1
        name, what = ("answers_per_s", "answers/s") if is_rate else ("p50_s", "p50")
        value = ratio(ours, theirs, load, name)
        return Claim(f"{ours} over {theirs}, {what}, {load.title}", value, "ratio", bar, is_floor=is_rate)

    return (
        row(Way.ROUTER, Way.RAW, one, ROUTER_P50_BAR),
        row(Way.ROUTER, Way.RAW, many, ROUTER_RATE_BAR),
        row(Way.GATEWAY, Way.ENVOY, proxied_one, GATEWAY_P50_BAR),
        row(Way.GATEWAY, Way.ENVOY, proxied_narrow, GATEWAY_RATE_BAR),
        row(Way.GATEWAY, Way.ENVOY, proxied_full, GATEWAY_RATE_BAR),
    )
