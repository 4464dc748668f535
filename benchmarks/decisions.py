"""How long one decision takes: candidates, masks and choice, over a fleet that a router keeps up to date.

``make bench-decisions`` writes ``docs/benchmarks/decisions.json`` and ``decisions.md``. Each server has four widths and
none, one or two batches in flight; twenty requests wait. Between two decisions one server's account changes, as it
does in a router, and that is timed apart. Of ``ppo-slim`` the network is timed alone too. Best run on a quiet machine:
the 99th percentile is what the machine does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.harness.command import out_option, publish
from benchmarks.harness.machine import describe_machine
from benchmarks.learned_decision import DECISION_BARS_US, NETWORK_BARS_US, NetworkTiming, drawn_policy, measure_network
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_own_policy
from orchestrator.policies.protocol import RowPolicy, Situation
from orchestrator.profile.fit import LatencyFit, LatencyTable
from orchestrator.reporting.blocks import Block, Heading, Table, Text, render_markdown
from orchestrator.snapshot import (
    BatchInFlight,
    Family,
    ModelName,
    QueueState,
    ServedModel,
    ServerName,
    ServerState,
    TensorSpec,
    Width,
)

POLICIES = ("random", "jsq", "p2c", "lert:slack", "lert:brownout", "slackfit", "thrift")
SIZES = (2, 4, 8, 16, 64)
_WIDTHS = (25, 50, 75, 100)
_REPEATS = 3000
_QUEUE = QueueState(20, 1, 0.1, 0.15, tuple(Width(w) for w in _WIDTHS))


@dataclass(frozen=True, slots=True)
class Timing:
    """One row of the table.

    Attributes:
        servers: Servers in the fleet.
        policy: The policy that decided.
        p50_us: The time that half of the decisions take at most.
        p99_us: The time that 99 of 100 decisions take at most.
        put_us: Median time of taking over what changed on one server.
    """

    servers: int
    policy: str
    p50_us: float
    p99_us: float
    put_us: float


def make_fleet(servers: int) -> tuple[list[ServerState], LatencyTable]:
    """Return servers that are five times apart in speed, and what is known of their speed."""
    spec = TensorSpec("pixels", "FP32", (1, 28, 28))
    models = tuple(
        ServedModel(ModelName(f"net_w{w:03d}"), Family("net"), Width(w), w / 100, w * w, 32, 1, None, (spec,), (spec,))
        for w in _WIDTHS
    )
    states, fits = [], {}
    for index in range(servers):
        name = ServerName(f"server{index:04d}")
        held = (BatchInFlight(models[index % 4].name, 4, -0.001),) * (index % 3)
        states.append(ServerState(name, models, in_flight=held))
        for model in models:
            per_item_s = 1e-5 * model.width * (1 + index % 5) + 1e-7 * index
            fits[name, model.name] = LatencyFit().observe(1, per_item_s + 0.002).observe(8, 8 * per_item_s + 0.002)
    return states, LatencyTable(fits)


def measure(
    servers: int, policy: RowPolicy, repeats: int = _REPEATS, *, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Return how long decisions take over so many servers; ``repeats`` of them are counted, after some that are not."""
    states, latency = make_fleet(servers)
    tables = FleetTables(states, latency)
    situation = Situation(_QUEUE, 0.0, turn=0, uniforms=(0.4, 0.6), slack_margin=1.25)
    puts, decisions = [], []
    for turn in range(-10, repeats):
        state = states[turn % servers]
        put_s = _timed(lambda state=state: tables.put(state, latency), clock)  # type: ignore[misc]
        decision_s = _timed(lambda: tables.choose(policy, tables.fill(situation)), clock)
        if turn >= 0:  # the first compile, or load what was compiled
            puts.append(put_s)
            decisions.append(decision_s)
    puts.sort()
    decisions.sort()
    return Timing(
        servers,
        policy.name,
        p50_us=1e6 * decisions[repeats // 2],
        p99_us=1e6 * decisions[repeats * 99 // 100],
        put_us=1e6 * puts[repeats // 2],
    )


def _timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began_s = clock()
    call()
    return clock() - began_s


def make_page(timings: list[Timing], networks: list[NetworkTiming], machine: str) -> Iterator[Block]:
    """Yield the tables."""
    whole = {t.servers: t for t in timings if t.policy == "ppo-slim"}
    yield Heading(1, "What a decision takes")
    yield Text(
        f"Made by `make bench-decisions` on {machine}, compiled by Numba; µs for candidates, masks and choice, "
        "and for taking over what changed on one server. Four widths a server, twenty requests waiting."
    )
    yield Table(
        ("servers", "policy", "p50", "p99", "a server's change, p50"),
        [(str(t.servers), f"`{t.policy}`", f"{t.p50_us:.1f}", f"{t.p99_us:.1f}", f"{t.put_us:.1f}") for t in timings],
    )
    yield Heading(2, "A learned decision")
    yield Text(
        "Of `ppo-slim`, p99 in µs: the network alone, and the whole decision with candidates, features and masks."
    )
    yield Table(
        ("servers", "candidates scored", "network p50", "network p99", "bar", "whole p99", "bar"),
        [
            (
                *(str(n.servers), str(n.candidates), f"{n.p50_us:.1f}", f"{n.p99_us:.1f}"),
                *(f"{NETWORK_BARS_US[n.servers]:.0f}", f"{whole[n.servers].p99_us:.1f}"),
                f"{DECISION_BARS_US[n.servers]:.0f}",
            )
            for n in networks
            if n.servers in whole
        ],
    )


@click.command(help=__doc__)
@out_option
def main(out: Path) -> None:
    """Measure, print and write."""
    policies: list[RowPolicy] = [*(parse_own_policy(name) for name in POLICIES), drawn_policy()]
    timings = [measure(servers, policy) for servers in SIZES for policy in policies]
    networks = [measure_network(servers) for servers in NETWORK_BARS_US]
    machine = f"{describe_machine().cpu}, Python {platform.python_version()}"
    page = list(make_page(timings, networks, machine))
    click.echo(render_markdown(page))
    rows, alone = [asdict(timing) for timing in timings], [asdict(network) for network in networks]
    values = {"machine": machine, "how": "compiled by Numba", "rows": rows, "networks": alone}
    publish("decisions", out, values, page, indent=1)


if __name__ == "__main__":
    main()
