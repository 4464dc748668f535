"""The page of a run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness.run import page_head
from benchmarks.restarts.cells import LAME_DUCK_S, RATE_PER_S, ROUNDS, Cell, Outcome, Results, draw_claims
from benchmarks.restarts.proxies import PROBE_PERIOD_S
from orchestrator.reporting.blocks import Block, Heading, Table, Text

_PROSE = (
    "This page is written by `make bench-restarts`; the raw findings lie beside it in [restarts.json](restarts.json). "
    "Two gateways with default settings stand before two real Tritons. A client sends "
    f"{RATE_PER_S} inferences a second, each when it is due, and repeats none by a policy of its own. Meanwhile each "
    f"gateway is restarted {ROUNDS} times, in turn, the next one when requests reach the last one again: by SIGTERM "
    "and a new start, or by another one that takes its place (`--replace`). Clients without a balancer know both "
    "addresses and use `round_robin`. Balancers repeat what they could not send, and nothing else; Envoy and HAProxy "
    f"probe the health of gateways every {PROBE_PERIOD_S:g} s, nginx does not; `benchmarks/restarts/proxies.py` has "
    "their settings. Envoy connects again to a gateway that has sent it away until a probe fails, so gateways behind "
    f"it are given `lame_duck_s: {LAME_DUCK_S:g}`; what it loses without is measured too, and counts for no claim. "
    "Gateways that share the fleet are peers: each Triton has one driver, and goes to the other gateway and back. "
    "Clients, balancers, gateways and Tritons share the processors, and a gateway that starts takes one of them."
)


def make_page(results: Results) -> Iterator[Block]:
    """Yield the page."""
    yield from page_head("Rolling restarts under foreign clients", _PROSE, results, draw_claims(results))
    yield Heading(2, "Measured")
    columns = (
        "client",
        "through",
        "restarted by",
        "workers",
        "lame_duck_s",
        "share",
        "restarts",
        "answered",
        "failed",
        "longest ms",
    )
    yield Table(columns, [_row(cell, outcome) for cell, outcome in results.cells])
    for name, reason in results.left_out.items():
        yield Text(f"**{name} was not tried:** {reason}")
    for cell, outcome in results.cells:
        for reason, count in outcome.errors.items():
            yield Text(f"{cell}: {count} of {reason}")


def _row(cell: Cell, outcome: Outcome) -> tuple[str, ...]:
    counts = (outcome.restarts, f"{outcome.answered:,}", outcome.failed, f"{1e3 * outcome.longest_s:.0f}")
    shares = "yes" if cell.shares else ""
    settings = (f"`{cell.how}`", str(cell.workers), f"{cell.lame_duck_s:g}", shares)
    return (cell.client, cell.proxy, *settings, *map(str, counts))
