"""``python -m benchmarks.fidelity.matrix``: the runs of ``make bench-real`` in virtual time, and how far off they are.

From the profile alone that was taken of the same servers before, from what a gateway costs two cores that servers,
gateway and callers share, which was measured apart, from what the callers cost and from how late they were, every line
of real.json is simulated, with the arrivals that the real servers got. Nothing is fitted to the runs that are compared.
Set-ups without a router (Envoy) and bursts are left out: the first decide nothing, and a burst is over before a
simulated margin has learned anything.

Both sides count an answer in time for as much as its width is right on average, by the profile, so that which images a
run happened to send is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.claims import claims_table, encode_claim
from benchmarks.harness.command import (
    conclude,
    out_option,
    path_option,
    publish,
    start_clock,
)
from benchmarks.real.cells import FLEETS, WARM_UP_S, Cell
from benchmarks.real.results import Line, decode_line
from benchmarks.real.testbed import FIXED, POLICIES
from orchestrator.config import RouterSettings
from orchestrator.loadgen.plan import arrivals_s
from orchestrator.policies.parsing import parse_policy
from orchestrator.profile.document import Profile, parse_profile
from orchestrator.reporting.blocks import Block, Bullets, Heading, Table, Text
from orchestrator.reporting.claim import Claim
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer, lognormal_sigma, server_from_profile
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation

RIGHT_POINTS, MEAN_RATIO, P99_RATIO, TAU = 3.0, 0.05, 0.15, 0.9
_ROUTER = {"request_us": 60, "decision_us": 50, "batch_us": 540, "answer_us": 40, "has_callers": True, "weight": 3}
"""Processor time of a gateway, and its share beside others. On two AMD cores it took 690, 383 and 190 µs for each
request in batches of 1, 2.1 and 7, at 500, 1,500 and 3,000 requests a second, which are no runs that are compared. By
its ``nice`` of -5 Linux weighs it 3121 to the 1024 of any other process."""
_TIE_POINTS = 0.5  # of two policies that are as close, real servers don't tell the order
_LATENESS = 1  # the stream of random numbers that callers' lateness is drawn from
_FEW = 0.01  # answered, of all: below it latencies say nothing


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side says of a policy in a cell.

    Attributes:
        right: Answers in time by how often their widths are right, of all requests; 0..1.
        mean_s, p99_s: Of the latency of answers; None without enough of them.
    """

    right: float
    mean_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One policy in one cell and round, on both sides."""

    cell: Cell
    round: int
    policy: str
    real: Figures
    simulated: Figures


def real_figures(line: Line, accuracies: Mapping[int, float]) -> Figures:
    """Return the figures of a measured line, by the accuracy of each width."""
    mean = sum(part * accuracies[int(width)] for width, part in line.widths.items())
    has_few = line.in_time < _FEW
    return Figures(line.in_time * mean, None if has_few else line.mean_s, None if has_few else line.p99_s)


def simulate(line: Line, servers: Sequence[SimulatedServer], seconds: float) -> Figures:
    """Return the figures of a line, whose requests were sent for so long, in virtual time."""
    cell, own = line.cell, FLEETS[line.cell.fleet]
    if (width := FIXED.get(line.set_up)) is not None:  # who asks for a width is offered no other
        servers = [replace(s, models=tuple(m for m in s.models if m.width == width)) for s in servers]
    due_s = arrivals_s(cell.load(line.rate_rps / cell.ratio, seconds, WARM_UP_S, seed=line.round))
    settings = ScenarioSettings.model_validate(
        {
            "name": cell.fleet,
            "servers": [{"name": server.name, "profile": "profile.json"} for server in servers],
            "workload": {"requests": len(due_s)},
            "objectives": {
                "deadline_ms": cell.deadline_s * 1e3,
                "shed_late": True,
                "in_flight_groups": RouterSettings().in_flight_groups,
            },
            "hosts": [
                {
                    "name": "machine",
                    "cores": 2,
                    "slice_ms": 2,
                    # An emulated server sleeps for the rest of its time.
                    "servers": {server.name: 1 / slow for server, slow in zip(servers, own, strict=True)},
                    "router": _ROUTER,
                    "competing": [[0, cell.hogs + line.senders_cores]],
                }
            ],
        }
    )
    drawn = draw_trace(settings, servers, line.round)
    late_s = draw_lateness_s(line, len(due_s))  # latency counts from when a request was due
    order = np.argsort(due_s + late_s, kind="stable")
    arrived_s, deadline_s = (due_s + late_s)[order], (due_s + cell.deadline_s)[order]
    trace = replace(drawn, arrived_s=arrived_s, deadline_s=deadline_s, rate_rps=line.rate_rps)
    servers = [replace(server, dynamic_batching=True) for server in servers]  # as export writes it
    simulation = Simulation(settings, servers, parse_policy(POLICIES[line.set_up]), trace=trace)
    simulation.run()
    warm = float((due_s < WARM_UP_S).mean())
    found = summarise(simulation, seed=line.round, warm_up_ratio=warm)
    if found.attainment_ratio < _FEW or found.mean_s is None or found.p99_s is None:
        return Figures(found.effective_accuracy, None, None)
    mean_late_s = float(late_s.mean())
    return Figures(found.effective_accuracy, found.mean_s + mean_late_s, found.p99_s + mean_late_s)


def draw_lateness_s(line: Line, count: int) -> NDArray[np.float64]:
    """Return how late callers are with each of their requests, by the mean and the 99th percentile of the real ones.

    As a lognormal variable. Were all equally late, a metronome's requests would never meet at a server that takes just
    as long for one as the next one takes to come, where real ones queue.
    """
    if line.sender_mean_late_s <= 0:
        return np.zeros(count)
    sigma = lognormal_sigma(line.sender_late_s / line.sender_mean_late_s)
    scores = np.random.default_rng([line.round, _LATENESS]).standard_normal(count)
    found: NDArray[np.float64] = line.sender_mean_late_s * np.exp(sigma * scores - sigma * sigma / 2)
    return found


def draw_claims(pairs: Sequence[Pair]) -> list[Claim]:
    """Return what is promised of the simulator."""
    points = [100 * abs(pair.simulated.right - pair.real.right) for pair in pairs]
    means = [error for pair in pairs if (error := _error(pair.simulated.mean_s, pair.real.mean_s)) is not None]
    p99s = [error for pair in pairs if (error := _error(pair.simulated.p99_s, pair.real.p99_s)) is not None]
    taus = [tau for _, tau in _taus(pairs) if tau is not None]
    claims = [
        _share("top-1 in time within 3 points of the real one", points, RIGHT_POINTS),
        _share("mean latency within 5 % of the real one", means, MEAN_RATIO),
        _share("p99 latency within 15 % of the real one", p99s, P99_RATIO),
    ]
    note = f"mean over {len(taus)} cells in which policies differ; least {min(taus):.2f}" if taus else ""
    tau = float(np.mean(taus)) if taus else None
    return [*claims, Claim("ranking of policies, Kendall's tau", tau, "", TAU, is_floor=True, note=note)]


def _error(simulated: float | None, real: float | None) -> float | None:
    return None if simulated is None or real is None else abs(simulated / real - 1)


def _share(name: str, errors: Sequence[float], bar: float) -> Claim:
    value = 100 * float(np.mean([error <= bar for error in errors])) if errors else None
    note = f"of {len(errors)} runs; median error {np.median(errors):.2g}, most {max(errors):.2g}" if errors else ""
    return Claim(f"runs with {name}", value, "%", 100.0, is_floor=True, note=note)


def describe_repeats(pairs: Sequence[Pair]) -> str:
    """Return how alike two runs on the same real servers are, which no simulator can surpass; "" of single runs."""
    again = {(pair.cell, pair.policy): pair.real for pair in pairs if pair.round == 1}
    first = {key: pair.real for pair in pairs if pair.round == 0 and (key := (pair.cell, pair.policy)) in again}
    twice = [(one, again[key]) for key, one in first.items()]
    if not twice:
        return ""
    means = [_error(two.mean_s, one.mean_s) for one, two in twice]
    p99s = [_error(two.p99_s, one.p99_s) for one, two in twice]
    within = {
        f"{RIGHT_POINTS:g} points": [100 * abs(one.right - two.right) <= RIGHT_POINTS for one, two in twice],
        f"{100 * MEAN_RATIO:g} % of the mean": [error <= MEAN_RATIO for error in means if error is not None],
        f"{100 * P99_RATIO:g} % of the p99": [error <= P99_RATIO for error in p99s if error is not None],
    }
    shares = ", ".join(f"within {bar} in {100 * np.mean(met):.0f} %" for bar, met in within.items())
    return f"Two runs of the same on the real servers are {shares} of {len(twice)} cells and policies."


def _taus(pairs: Sequence[Pair]) -> Iterator[tuple[Cell, float | None]]:
    """Yield how alike both sides rank the policies of each cell that differ on the real one; None where none do."""
    for cell in dict.fromkeys(pair.cell for pair in pairs):
        own = [pair for pair in pairs if pair.cell == cell]
        agreements = []
        for index, one in enumerate(own):
            for other in own[index + 1 :]:
                if one.round == other.round and abs(one.real.right - other.real.right) * 100 > _TIE_POINTS:
                    apart = one.simulated.right - other.simulated.right
                    is_tie = abs(apart) * 100 <= _TIE_POINTS
                    agreements.append(0 if is_tie else int(np.sign(apart * (one.real.right - other.real.right))))
        yield cell, float(np.mean(agreements)) if agreements else None


def make_page(pairs: Sequence[Pair], claims: Sequence[Claim], setting: Mapping[str, str]) -> Iterator[Block]:
    """Yield the blocks of the page."""
    yield Heading(1, "The runs on real servers in virtual time")
    yield Text(
        "What `make bench-real` measured, and what the simulator says of the same arrivals, policies and deadlines, "
        "from a profile of the same servers, from what a gateway costs two cores, which was measured apart, and from "
        "what the callers did cost them and how late they were. "
        "Nothing is fitted to these runs. An answer in time counts for as much as its width is right on average. "
        "Made by `make bench-fidelity`."
    )
    yield Bullets("", [f"{key}: {value}" for key, value in setting.items()])
    yield claims_table(claims)
    yield Bullets("", [f"{claim.name}: {claim.note}" for claim in claims if claim.note])
    if repeats := describe_repeats(pairs):
        yield Text(repeats)
    policies = list(dict.fromkeys(pair.policy for pair in pairs))
    taus = dict(_taus(pairs))
    for fleet, hogs in dict.fromkeys((pair.cell.fleet, pair.cell.hogs) for pair in pairs):
        yield Heading(2, f"{fleet.capitalize()}, {'beside a process that takes a core' if hogs else 'quiet'}")
        yield Text("Right in time in percent, real → simulated, on average over rounds.")
        rows = []
        for cell in dict.fromkeys(p.cell for p in pairs if (p.cell.fleet, p.cell.hogs) == (fleet, hogs)):
            own = [pair for pair in pairs if pair.cell == cell]
            tau = taus[cell]
            rows.append(
                (
                    cell.workload,
                    f"{cell.deadline_s * 1e3:g} ms",
                    f"{cell.ratio:g}",
                    *(_cell([pair for pair in own if pair.policy == policy]) for policy in policies),
                    "–" if tau is None else f"{tau:.2f}",
                )
            )
        yield Table(("arrivals", "deadline", "load", *policies, "tau"), rows)


def _cell(rounds: Sequence[Pair]) -> str:
    if not rounds:
        return "–"
    real = 100 * float(np.mean([pair.real.right for pair in rounds]))
    simulated = 100 * float(np.mean([pair.simulated.right for pair in rounds]))
    return f"{real:.1f} → {simulated:.1f}"


@click.command()
@path_option("--real", Path("docs/benchmarks/real.json"))
@out_option
def main(real: Path, out: Path) -> None:
    """Simulate the runs; the exit status is 1 when a bar is missed."""
    say, document = start_clock(), json.loads(real.read_text())
    lines = [decode_line(values) for values in document["lines"]]
    wanted = [line for line in lines if line.set_up in POLICIES and not line.cell.is_burst]
    pairs = []
    for fleet, values in document["profiles"].items():
        profile = parse_profile(json.dumps(values), source=str(real))
        servers = [server_from_profile(server, server.name) for server in profile.servers]
        accuracies = _accuracies(profile)
        own = [line for line in wanted if line.cell.fleet == fleet]
        say(f"{fleet}: simulating {len(own)} runs")
        for line in own:
            simulated = simulate(line, servers, float(document["setting"]["seconds of each run"]))
            pairs.append(Pair(line.cell, line.round, line.set_up, real_figures(line, accuracies), simulated))
    claims = draw_claims(pairs)
    setting = {"machine of the real runs": document["setting"]["machine"], "taken at": document["taken_at"]}
    written: dict[str, Any] = {
        "setting": setting,
        "claims": [encode_claim(claim) for claim in claims],
        "pairs": [asdict(pair) for pair in pairs],
    }
    publish("real-simulated", out, written, list(make_page(pairs, claims, setting)))
    conclude(claims)


def _accuracies(profile: Profile) -> dict[int, float]:
    return {model.width: model.accuracy for server in profile.servers for model in server.models}


if __name__ == "__main__":
    main()
