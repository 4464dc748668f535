"""The comparison as a page and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.controller.results import Machine
from benchmarks.fidelity.compare import TIE_ERRORS, Pair, draw_claims, pair_up
from benchmarks.fidelity.sessions import Session
from benchmarks.fidelity.testbed import DISTURBED_S, MOST_REPEATED, FidelitySettings

_LINE = 120


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found.

    Attributes:
        machine: it was made on.
        versions: of what took part.
        settings: of each sitting.
        sessions: one at least.
    """

    machine: Machine
    versions: dict[str, str]
    settings: FidelitySettings
    sessions: tuple[Session, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """One a policy, over the rounds of all sittings."""
        return pair_up([each for session in self.sessions for each in session.rounds])


def render_json(report: Report) -> str:
    """Return all of it, round by round."""
    settings = asdict(report.settings)
    settings["repository"] = report.settings.repository.name
    values = {
        "suite": "real",
        "taken_at": report.sessions[-1].taken_at,
        "machine": asdict(report.machine),
        "versions": report.versions,
        "settings": settings,
        "claims": draw_claims(report.pairs),
        "rows": [
            {
                "policy": pair.policy,
                "real": asdict(pair.real),
                "simulated": asdict(pair.simulated),
                "mean_error": pair.mean_error,
                "p99_error": pair.p99_error,
            }
            for pair in report.pairs
        ],
        "sittings": [asdict(session) for session in report.sessions],
    }
    return json.dumps(values, indent=1) + "\n"


def render_page(report: Report) -> str:
    """Return the page."""
    return "\n".join([*_introduction(report), *_claims(report.pairs), *_figures(report.pairs), *_profile(report), ""])


def _introduction(report: Report) -> list[str]:
    settings, machine, sessions = report.settings, report.machine, report.sessions
    rates = sorted(session.rate_rps for session in sessions)
    rounds = sum(len({each.number for each in session.rounds}) for session in sessions)
    made = f"Made by `make bench-fidelity` on {sessions[-1].taken_at[:10]}, on {machine.cpu}, {machine.cpus} cores."
    how = (
        "Two embedded tritonservers, emulated 8 and 24 times slower, serve the demo family. They are profiled, also "
        "under load, and the profile alone is what the simulator gets: no number of the real runs is fitted. Then both "
        f"get the same arrivals: Poisson, {rates[0]:.0f} to {rates[-1]:.0f} requests a second, "
        f"{settings.load_ratio:g} of what the fleet serves at full width, {rounds} rounds of {settings.requests:,} in "
        f"{len(sessions)} sitting(s) with servers and profiles of their own, open loop, deadline "
        f"{settings.deadline_s * 1e3:g} ms, batches of {settings.max_batch_size} at most. In a round all policies meet "
        "the same arrivals, in an order drawn by lot; simulated ones are repeated over "
        f"{settings.noise_draws} draws of service noise."
    )
    apart = (
        "Router and sender have one core, the servers the other. Latency counts on both sides from when the router was "
        "given a request, which is also when it arrives in the simulation. What the simulator has not is off on the "
        "real side: Triton's own batcher, which joins groups that the router sent apart, probes, ejection, second "
        "attempts and shedding. A policy's round in which the sender was "
        f"{1e3 * DISTURBED_S:g} ms late is run again, because the machine stood still, up to {MOST_REPEATED} "
        "times in a sitting: "
        f"{sum(session.repeated for session in sessions)} were."
    )
    lines = ["# Real servers against the simulator", "", made]
    for paragraph in (how, apart):
        lines += ["", *textwrap.wrap(paragraph, _LINE, break_on_hyphens=False)]
    return [*lines, ""]


def _claims(pairs: Sequence[Pair]) -> list[str]:
    rows = [
        f"| {c['name']} | {c['value']} | {_interval(c['interval'])} | {'≥' if c['is_floor'] else '≤'} {c['bar']} "
        f"| {'yes' if c['met'] else 'no'} |"
        for c in draw_claims(pairs)
    ]
    note = (
        "A pair of policies differs beyond chance when its difference on the real side, round by round, is more than "
        f"{TIE_ERRORS:g} standard errors; of the others the real servers don't tell the order. Intervals are by draws "
        "of the rounds."
    )
    return [
        "| promise | value | 95 % interval | bar | met |",
        "|---|---:|---:|---:|---|",
        *rows,
        "",
        *textwrap.wrap(note, _LINE),
        "",
    ]


def _interval(interval: object) -> str:
    return " to ".join(str(end) for end in interval) if isinstance(interval, list) else "–"


def _figures(pairs: Sequence[Pair]) -> list[str]:
    sides = "real | simulated |"
    head = f"| policy | mean, {sides} error | chance | p99, {sides} error | in time, {sides} accuracy, {sides}"
    rows = []
    for p in pairs:
        real, simulated = p.real, p.simulated
        rows.append(
            f"| `{p.policy}` | {1e3 * real.mean_s:.2f} ms | {1e3 * simulated.mean_s:.2f} ms | {p.mean_error:+.1%} "
            f"| {p.mean_error_chance:.1%} | {1e3 * real.p99_s:.1f} ms | {1e3 * simulated.p99_s:.1f} ms "
            f"| {p.p99_error:+.1%} | {real.attainment_ratio:.2%} | {simulated.attainment_ratio:.2%} "
            f"| {real.accuracy:.4f} | {simulated.accuracy:.4f} |"
        )
    note = (
        "Figures are means over rounds. Chance is the standard error of the mean's error over the rounds. Accuracy is "
        "that of the widths that answered, as the profile says."
    )
    return [head, f"|---|{'---:|' * 11}", *rows, "", *textwrap.wrap(note, _LINE), ""]


def _profile(report: Report) -> list[str]:
    rows = [
        f"| `{row.server}` | {row.width} % | {_both_ms(row.alone_s)} | {_both_ms(row.busy_s)} "
        f"| {_both_ms(row.rested_s)} | {row.spread:.1%} |"
        for row in report.sessions[-1].profile
    ]
    note = (
        "The profile of the last sitting, in ms, of the smallest and the largest batch: one at a time, what a batch "
        "takes of a busy server, and latency after a rest. Spread is the standard deviation of the first over its mean."
    )
    head = ["| server | width | one at a time | busy | rested | spread |", "|---|---:|---:|---:|---:|---:|"]
    return [*textwrap.wrap(note, _LINE), "", *head, *rows]


def _both_ms(times_s: tuple[float, float]) -> str:
    return f"{1e3 * times_s[0]:.2f}, {1e3 * times_s[1]:.1f}"
