"""The experiment of arXiv 2510.09018 on real Tritons: three unlike servers, a greedy controller beside each, a router.

``make bench-paper`` profiles the servers, fits ppo-paper to that profile at two weightings of its reward, and runs a
gateway for each policy that is compared, all over the same servers and controllers, in turn. It writes
``docs/benchmarks/paper.json`` and ``paper.md``. Each run is kept as it comes, so whoever is interrupted starts it again
and goes on.

Ours, and not the paper's: servers are emulated slower ones whose speeds differ as three GPUs' might, on CPU; the
network is the demo's; power is stated, so joules are times the measured time and no joule was measured; and what
ppo-paper sees, earns and is made of (orchestrator.learning.ppo.paper). No request is refused for its deadline, because
random routing would refuse most of what it is late with, and look quick.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import yaml

from benchmarks.harness.claims import claims_table
from benchmarks.harness.command import (
    Say,
    conclude,
    out_option,
    path_option,
    publish,
    repository_option,
    run_to_end,
    start_clock,
)
from benchmarks.harness.gateways import start_gateway, wait_served
from benchmarks.harness.machine import Machine, describe_machine
from benchmarks.harness.programs import run_controller, run_slimsched
from benchmarks.harness.rows import REMEDY, Taken, about_machine, measure_in_turn
from orchestrator.config import (
    ControllerSettings,
    FleetSettings,
    LimitSettings,
    OverloadSettings,
    PowerSettings,
    RouterSettings,
    ServerSettings,
    render_fleet,
)
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ConfigError
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import Mean, mean_of
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.journal import Journal
from orchestrator.snapshot import READ_DEVICES_S

FAMILY = "fashion"
SERVERS: Final = {
    "rtx-3090-class": (12.0, PowerSettings(idle_w=52, busy_w=350), 1200.0),
    "rtx-2080-ti-class": (22.0, PowerSettings(idle_w=37.5, busy_w=250), 900.0),
    "gtx-1650-class": (62.0, PowerSettings(idle_w=11, busy_w=75), 600.0),
}
"""By how much each is slowed down, its stated power, and its budget of memory in MiB."""
CONTROLLER: Final = ControllerSettings(period_s=0.5, grow_after_s=0.5, cooldown_s=1, idle_s=5, batching=False)
MAX_INSTANCES: Final = 3
DEADLINE_MS: Final = 50.0
"""As in the scenarios of suite ``paper``. Nobody is refused for it; ppo-paper's reward holds latency against it."""
WEIGHTS: Final = {"slimmest": (0.05, 0.85, 0.1), "accurate": (0.6, 0.35, 0.05)}
"""Of accuracy, latency and energy in the reward; all in which the two operating points differ."""
PPO: Final = {name: f"ppo-paper, {name}" for name in WEIGHTS}
RULES: Final = ("random", "random-batch", "lert:narrowest", "lert:75", "lert:slack", "thrift")
RANDOM: Final = ("random", "random-batch")
DEFAULT: Final = "default"
RATIOS: Final = (0.3, 0.6, 0.85)
"""Requests over what the fleet answers at full width."""
_PAPER: Final = {"latency": 0.9645, "energy": 0.9731}
_WARM_UP_S, _REST_S, _SETTLE_S = 4.0, 1.0, 8.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one set-up did in one round at a load: times in seconds, joules above idle of an answer, accuracy 0..1."""

    set_up: str
    ratio: float
    round: int
    mean_s: float
    std_s: float
    p99_s: float
    answers_rps: float
    accuracy: float
    energy_j: float
    in_time: float


def about(machine: Machine, seconds: float, minutes: float) -> Mapping[str, Any]:
    """Return what the parts of a run must have in common."""
    slowdowns = [slowdown for slowdown, _, _ in SERVERS.values()]
    return about_machine(machine, seconds=seconds, minutes=minutes, slowdowns=slowdowns, deadline_ms=DEADLINE_MS)


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@path_option("--work", Path("build/paper"))
@click.option("--rounds", type=click.IntRange(2), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=6), default=12.0, show_default=True, help="Of each run.")
@click.option("--minutes", type=click.FloatRange(min=0), default=9.0, show_default=True, help="Of each training.")
def main(repository: Path, out: Path, sample: Path, work: Path, rounds: int, seconds: float, minutes: float) -> None:
    """Measure random routing, rules and ppo-paper on three real servers with controllers; go on where it ended."""
    machine, say = describe_machine(), start_clock()
    work.mkdir(parents=True, exist_ok=True)
    taken = Taken(about(machine, seconds, minutes), Row)
    try:
        with Journal(work / "journal.jsonl", taken.replay, remedy=REMEDY) as kept:
            run_to_end(_measure(repository, work, load_sample(sample), rounds, seconds, minutes, taken, kept, say))
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc
    claims = list(draw_claims(taken.rows))
    publish("paper", out, taken.document(machine, claims), list(make_page(taken, claims, machine)))
    (work / "journal.jsonl").unlink()
    conclude(claims)


async def _measure(
    repository: Path,
    work: Path,
    sample: LabelledSample,
    rounds: int,
    seconds: float,
    minutes: float,
    taken: Taken[Row],
    journal: Journal,
    say: Say,
) -> None:
    known = {(row.set_up, RATIOS.index(row.ratio), row.round) for row in taken.rows}
    async with open_set_ups(repository.resolve(), work, minutes, say) as set_ups:
        if taken.capacity_rps is None:
            widest = SetUp("widest", set_ups[0].target, (("slim_width", 100),))
            taken.begin(await measure_capacity(widest, sample, first_rps=50.0), journal)
        assert taken.capacity_rps is not None
        capacity_rps = taken.capacity_rps
        say(f"{capacity_rps:.0f} requests a second at full width")
        deadline_s = DEADLINE_MS / 1e3
        loads = [Load("poisson", ratio * capacity_rps, seconds, deadline_s, warm_up_s=_WARM_UP_S) for ratio in RATIOS]
        async for name, index, number, summary in measure_in_turn(
            set_ups, loads, rounds, sample.sent(), known=known, rest_s=_REST_S
        ):
            row = _row_of(name, RATIOS[index], number, summary, seconds - _WARM_UP_S)
            taken.add(row, journal)
            say(
                f"round {number + 1}, load {row.ratio:g}, {name}: {1e3 * row.mean_s:.0f} ms, {row.energy_j:.1f} J, "
                f"{row.accuracy:.1%} right"
            )


def _row_of(name: str, ratio: float, number: int, summary: Summary, seconds: float) -> Row:
    mean_s, std_s, p99_s = summary.mean_s, summary.std_s, summary.p99_s
    accuracy, energy_j = summary.accuracy, summary.energy_j
    if mean_s is None or std_s is None or p99_s is None or accuracy is None or energy_j is None:
        raise ConfigError(f"{name} answered nothing, or its joules are unknown: {dict(summary.statuses)}")
    answered = summary.requests * (1 - summary.refused) / seconds
    return Row(name, ratio, number, mean_s, std_s, p99_s, answered, accuracy, energy_j, summary.in_time)


@asynccontextmanager
async def open_set_ups(repository: Path, work: Path, minutes: float, say: Say) -> AsyncIterator[list[SetUp]]:
    """Run servers, controllers and a gateway for each policy; what was profiled and trained before is taken as it is.

    The first set-up is the router's default.
    """
    async with AsyncExitStack() as stack:
        slowdowns = [slowdown for slowdown, _, _ in SERVERS.values()]
        servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown in slowdowns]
        await asyncio.gather(*map(stack.enter_async_context, servers))
        fleet = _fleet_of(servers, repository)
        path = work / "fleet.yaml"
        path.write_text(render_fleet(fleet))
        profile = work / "profile.json"
        if not profile.exists():
            say("profiling")
            options = ["--requests", "5", "--precision", "0.2", "--cycles", "1", "--control", "--under-load"]
            await run_slimsched(
                "profile", "--fleet", str(path), "--out", str(profile), *options, log=work / "profile.log"
            )
        files = await _train(work, minutes, say)
        for server in fleet.servers:
            port = int((server.controller or "").rpartition(":")[2])
            await stack.enter_async_context(run_controller(path, server.name, port))
        policies: dict[str, RouterSettings] = {DEFAULT: _router(profile)}
        policies |= {name: _router(profile, policy=name) for name in RULES}
        policies |= {PPO[name]: _router(profile, policy="ppo-paper", policy_file=file) for name, file in files.items()}
        found: list[SetUp] = []
        for name, router in policies.items():
            address = await start_gateway(stack, fleet, work / f"gateway-{len(found)}", router=router)
            found.append(SetUp(name, await wait_served(address, FAMILY)))
        await asyncio.sleep(_SETTLE_S)
        yield found


def _router(profile: Path, **more: Any) -> RouterSettings:
    return RouterSettings(
        deadline_ms=DEADLINE_MS, profile=profile.resolve(), overload=OverloadSettings(shed_late=False), **more
    )


def _fleet_of(servers: Sequence[EmbeddedServer], repository: Path) -> FleetSettings:
    ports = choose_free_ports(len(servers))
    return FleetSettings(
        servers=tuple(
            ServerSettings(
                name=name,
                grpc=server.grpc_address,
                metrics=server.metrics_url,
                repository=repository,
                controller=f"{LOOPBACK}:{port}",
                emulated_slowdown=slowdown,
                power=power,
                limits=LimitSettings(memory_budget_mib=budget_mib, max_instances=MAX_INSTANCES),
            )
            for server, port, (name, (slowdown, power, budget_mib)) in zip(servers, ports, SERVERS.items(), strict=True)
        ),
        controller=CONTROLLER,
    )


async def _train(work: Path, minutes: float, say: Say) -> dict[str, Path]:
    """Return ppo-paper for these servers by operating point, trained in a simulation of them with their controllers."""
    scenario = work / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(_scenario()))
    files = {}
    for name, weights in WEIGHTS.items():
        files[name] = work / f"ppo-paper-{name}.npz"
        if not files[name].exists():
            say(f"training ppo-paper, {name}")
            options = ["--policy", "ppo-paper", "--scenario", str(scenario), "--minutes", f"{minutes:g}"]
            options += ["--weights", *map(str, weights), "--out", str(files[name]), "--resume"]
            await run_slimsched("train-router", *options, log=work / f"train-{name}.log")
    return files


def _scenario() -> dict[str, Any]:
    limits = {name: {"memory_budget_mib": mib, "max_instances": MAX_INSTANCES} for name, (_, _, mib) in SERVERS.items()}
    return {
        "name": "three-real-servers",
        "servers": [
            {"name": name, "profile": "profile.json", "profile_server": name, "limits": limits[name]}
            for name in SERVERS
        ],
        "telemetry": {"read_every_s": READ_DEVICES_S},
        "controller": CONTROLLER.model_dump(exclude_defaults=True),
        "workload": {"kind": "poisson", "load_of_width": 100, "load_ratio": 0.5, "requests": 20_000},
        "objectives": {"deadline_ms": DEADLINE_MS},
    }


def less_than(rows: Sequence[Row], ratio: float, name: str, baseline: str, figure: str) -> Mean:
    """Return by which part a figure is less than a baseline's at a load, mean over rounds."""
    found = {(row.set_up, row.round): getattr(row, figure) for row in rows if row.ratio == ratio}
    rounds = sorted({number for _, number in found})
    return mean_of([1 - found[name, number] / found[baseline, number] for number in rounds])


def draw_claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield the paper's two savings at the slimmest point and each load, and that ppo-paper is nowhere slower."""
    for ratio in RATIOS:
        for figure, what in (("mean_s", "latency"), ("energy_j", "energy")):
            less = less_than(rows, ratio, PPO["slimmest"], "random", figure)
            name = f"at {ratio:.0%}, slimmest point: mean {what} less than random"
            yield _claim(name, less, _PAPER[what])
        for name in PPO.values():
            for baseline in RANDOM:
                less = less_than(rows, ratio, name, baseline, "mean_s")
                yield _claim(f"at {ratio:.0%}, {name}: no slower than {baseline}", less, 0.0)


def _claim(name: str, less: Mean, bar: float) -> Claim:
    return Claim(name, less.value, "part", bar, is_floor=True, interval=Interval(less.least, less.most))


def make_page(taken: Taken[Row], claims: Sequence[Claim], machine: Machine) -> Iterator[Block]:
    """Yield the page."""
    rounds = len({row.round for row in taken.rows})
    yield Heading(1, "The paper's experiment on real servers")
    servers = ", ".join(
        f"{name} ({slowdown:g} times as slow, {power.idle_w:g} W idle and {power.busy_w:g} W busy, {mib:g} MiB)"
        for name, (slowdown, power, mib) in SERVERS.items()
    )
    yield Text(
        f"Made by `make bench-paper` on {machine}. Three real Tritons: {servers}. Speeds are emulated and power is "
        f"stated, so joules are estimates. A controller beside each loads and scales widths every "
        f"{CONTROLLER.period_s:g} s, with at most {MAX_INSTANCES} instances of a width. Poisson arrivals of one image "
        f"each, in {rounds} rounds in which all policies take turns with the same arrivals; loads are over "
        f"{taken.capacity_rps:.0f} requests a second, which is what the fleet answers at full width. No request is "
        "refused. ± is half of the 95 % interval over rounds."
    )
    weights = "; ".join(f"`{PPO[name]}`: {a:g}, {b:g}, {c:g}" for name, (a, b, c) in WEIGHTS.items())
    yield Text(
        "What ppo-paper sees, earns and is made of is our reading. Its two operating points differ in the weights of "
        f"accuracy, latency and energy alone ({weights}). Latency, energy and throughput are of answers, energy above "
        "idle."
    )
    for ratio in RATIOS:
        yield Heading(2, f"At {ratio:.0%} of the capacity at full width")
        yield Table(_HEADER, [_line(taken.rows, name, ratio) for name in dict.fromkeys(r.set_up for r in taken.rows)])
    yield Heading(2, "Claims")
    yield claims_table(claims)


_HEADER = ("policy", "mean ms", "standard deviation ms", "p99 ms", "J an answer", "answers a second", "top-1",
           f"within {DEADLINE_MS:g} ms", "mean latency less than random", "energy less than random")  # fmt: skip


def _line(rows: Sequence[Row], name: str, ratio: float) -> tuple[str, ...]:
    own = [row for row in rows if (row.set_up, row.ratio) == (name, ratio)]

    def of(figure: str, scale: float, digits: int, unit: str = "") -> str:
        mean = mean_of([scale * getattr(row, figure) for row in own])
        return f"{mean.value:.{digits}f} ± {mean.most - mean.value:.{digits}f}{unit}"

    less = [less_than(rows, ratio, name, "random", figure) for figure in ("mean_s", "energy_j")]
    return (
        f"`{name}`",
        of("mean_s", 1e3, 1),
        of("std_s", 1e3, 1),
        of("p99_s", 1e3, 0),
        of("energy_j", 1.0, 2),
        of("answers_rps", 1.0, 0),
        of("accuracy", 100.0, 1, " %"),
        of("in_time", 100.0, 1, " %"),
        *(f"{100 * part.value:.1f} ± {100 * (part.most - part.value):.1f} %" for part in less),
    )


if __name__ == "__main__":
    main()
