"""How fast the simulator is: decisions a second at several sizes of fleet, against the bars that it promises.

``make bench-simulator`` writes ``docs/benchmarks/simulator.md`` and ``simulator.json``. Each run is a process of its
own and is timed without the drawing of its trace; with two at a time, as a study of seeds would run, both cores work.
The first run, which compiles or loads what was compiled, is timed apart.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import click

from benchmarks.harness.claims import claims_table, encode_claim
from benchmarks.harness.command import out_option, publish
from benchmarks.harness.machine import describe_machine
from orchestrator.policies.parsing import parse_policy
from orchestrator.reporting.blocks import Block, Heading, Table, Text, render_markdown
from orchestrator.reporting.claim import Claim
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName

POLICIES = ("random", "jsq", "p2c:slack", "lert:slack", "slackfit")
REQUESTS = {8: 200_000, 64: 30_000, 1000: 3_000}
"""By servers; half a second each."""
ROUNDS = 5
WORKERS = 2
SPEED_BAR = 200_000
"""Decisions a second on two cores, 8 servers of 4 widths."""
_WIDTHS = (25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Speed:
    """One row of the table.

    Attributes:
        servers: Servers in the fleet, of four widths each.
        policy: The policy that decided.
        workers: Processes at a time, each with a run of its own.
        decisions: Decisions of all of them.
        decisions_per_s: Decisions over the time until the last process had ended.
        decision_us: Time of one core for a decision.
        requests_per_s: Requests of all processes over that time.
    """

    servers: int
    policy: str
    workers: int
    decisions: int
    decisions_per_s: float
    decision_us: float
    requests_per_s: float


def make_fleet(servers: int) -> list[SimulatedServer]:
    """Return servers that are five times apart in speed."""
    return [
        SimulatedServer(
            ServerName(f"s{index:04d}"),
            tuple(
                linear_model(w, per_item_s=1e-5 * w * (1 + index % 5), fixed_s=0.002, sigma=0.1, per_item_j=0.01 * w)
                for w in _WIDTHS
            ),
            50.0,
        )
        for index in range(servers)
    ]


def run_once(servers: int, policy: str, requests: int, seed: int) -> tuple[float, int]:
    """Return how long a run took, and how many decisions it made."""
    workload = {"requests": requests, "load_ratio": 0.7, "load_of_width": 100}
    placeholder = {"name": "placeholder", "widths": {100: {"item_ms": 1}}}
    settings = ScenarioSettings.model_validate({"name": "speed", "servers": [placeholder], "workload": workload})
    simulation = Simulation(settings, make_fleet(servers), parse_policy(policy), seed=seed)
    began_s = time.perf_counter()
    simulation.run()
    return time.perf_counter() - began_s, int(simulation.world.state[sim.TURN])


def measure(servers: int, policy: str, workers: int, requests: int) -> Speed:
    """Return the speed of so many runs side by side, in the middle one of some rounds."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def side_by_side(count: int) -> list[tuple[float, int]]:
            return list(pool.map(run_once, [servers] * workers, [policy] * workers, [count] * workers, range(workers)))

        side_by_side(50)  # starts the processes and loads what was compiled
        rounds = [side_by_side(requests) for _ in range(ROUNDS)]
    return sum_up(servers, policy, requests, rounds)


def sum_up(servers: int, policy: str, requests: int, rounds: Sequence[Sequence[tuple[float, int]]]) -> Speed:
    """Return the speed of the middle one of rounds, by the slowest run of each.

    Each round has for each of the runs side by side how long it took, in seconds, and how many decisions it made.
    """
    runs = sorted(rounds, key=max)[len(rounds) // 2]
    slowest_s, decisions = max(took_s for took_s, _ in runs), sum(made for _, made in runs)
    return Speed(
        servers,
        policy,
        len(runs),
        decisions,
        decisions / slowest_s,
        1e6 * sum(took_s for took_s, _ in runs) / decisions,
        len(runs) * requests / slowest_s,
    )


def measure_growth(policy: str) -> float:
    """Return what a decision over 64 servers costs in those over 8, the median of pairs one right after the other."""

    def decision_s(servers: int, requests: int, seed: int) -> float:
        took_s, decisions = run_once(servers, policy, requests, seed)
        return took_s / decisions

    run_once(64, policy, 50, 0)  # loads what was compiled
    return median(decision_s(64, REQUESTS[64], seed) / decision_s(8, REQUESTS[8], seed) for seed in range(ROUNDS))


def draw_claims(speeds: list[Speed], growth: float) -> tuple[Claim, ...]:
    """Return the bars, held against the slowest policy; ``growth`` is the largest of ``measure_growth``."""
    slowest = min(s.decisions_per_s for s in speeds if s.servers == 8 and s.workers == WORKERS)
    done = min(s.decisions for s in speeds if s.servers == 1000)
    return (
        Claim("decisions a second, 8 servers, slowest policy, 2 processes", slowest, "1/s", SPEED_BAR, is_floor=True),
        Claim("cost of a decision at 64 servers over 8, worst policy; 8 is linear", growth, "ratio", 8.0),
        Claim("decisions of a run over 1,000 servers, fewest", float(done), "", 1.0, is_floor=True),
    )


def make_page(speeds: list[Speed], claims: Sequence[Claim], machine: str, compile_s: float) -> Iterator[Block]:
    """Yield the tables."""
    yield Heading(1, "How fast the simulator is")
    yield Text(
        f"Made by `make bench-simulator` on {machine}. Four widths a server, load 0.7 of the capacity at full width, "
        "learning on, energy counted. A decision holds candidates, masks and choice, and its share of all events. Each "
        f"row is the middle one of {ROUNDS} rounds. Before the first run everything was compiled, or loaded where it "
        f"had been, in {compile_s:.0f} s."
    )
    yield claims_table(claims)
    yield Table(
        ("servers", "policy", "processes", "decisions/s", "µs a decision on one core", "requests/s"),
        [
            (
                *(str(s.servers), f"`{s.policy}`", str(s.workers), f"{s.decisions_per_s:,.0f}"),
                *(f"{s.decision_us:.2f}", f"{s.requests_per_s:,.0f}"),
            )
            for s in speeds
        ],
    )


@click.command(help=__doc__)
@out_option
def main(out: Path) -> None:
    """Measure, print and write."""
    began_s = time.perf_counter()
    run_once(2, "lert:slack", 10, 0)
    compile_s = time.perf_counter() - began_s
    speeds = [
        measure(servers, policy, workers, requests)
        for servers, requests in REQUESTS.items()
        for workers in ((1, WORKERS) if servers == min(REQUESTS) else (WORKERS,))
        for policy in POLICIES
    ]
    claims = draw_claims(speeds, max(map(measure_growth, POLICIES)))
    machine = f"{describe_machine().cpu}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    page = list(make_page(speeds, claims, machine, compile_s))
    click.echo(render_markdown(page))
    document = {
        "machine": machine,
        "compile_s": compile_s,
        "claims": list(map(encode_claim, claims)),
        "rows": [asdict(speed) for speed in speeds],
    }
    publish("simulator", out, document, page, indent=1)


if __name__ == "__main__":
    main()
