"""The comparison as a page and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fidelity.compare import TIE_ERRORS, Pair, draw_claims, pair_up
from benchmarks.fidelity.sessions import ProfileRow, Session
from benchmarks.fidelity.testbed import DISTURBED_S, MOST_REPEATED, FidelitySettings
from benchmarks.harness.claims import claims_table, encode_claim
from benchmarks.harness.machine import Machine
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim

_LINE = 120


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found.

    Attributes:
        machine: What it was made on.
        versions: Of what took part, by name.
        settings: Of each session.
        sessions: One at least.
    """

    machine: Machine
    versions: dict[str, str]
    settings: FidelitySettings
    sessions: tuple[Session, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Both sides of each policy, over the rounds of all sessions."""
        return pair_up([each for session in self.sessions for each in session.rounds])


def make_document(report: Report, claims: Sequence[Claim]) -> dict[str, Any]:
    """Return all of it as JSON values, round by round."""
    return {
        "suite": "real",
        "taken_at": report.sessions[-1].taken_at,
        "machine": asdict(report.machine),
        "versions": report.versions,
        "settings": asdict(report.settings) | {"repository": report.settings.repository.name},
        "claims": [encode_claim(claim) | {"is_floor": claim.is_floor, "interval": _ends(claim)} for claim in claims],
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


def _ends(claim: Claim) -> list[float] | None:
    return None if claim.interval is None else [round(claim.interval.low, 4), round(claim.interval.high, 4)]


def make_page(report: Report) -> Iterator[Block]:
    """Yield the page, its prose in lines that a diff shows well."""
    for block in _blocks(report):
        yield Text(textwrap.fill(block.text, _LINE, break_on_hyphens=False)) if isinstance(block, Text) else block


def _blocks(report: Report) -> Iterator[Block]:
    settings, machine, sessions = report.settings, report.machine, report.sessions
    rates = sorted(session.rate_rps for session in sessions)
    rounds = sum(len({each.number for each in session.rounds}) for session in sessions)
    made = sessions[-1].taken_at[:10]
    yield Heading(1, "Real servers against the simulator")
    yield Text(f"Made by `make bench-fidelity` on {made}, on {machine.cpu}, {machine.cpus} cores.")
    yield Text(
        "Two embedded tritonservers, emulated 8 and 24 times slower, serve the demo family. They are profiled, also "
        "under load, and the profile alone is what the simulator gets: no number of the real runs is fitted. Then both "
        f"get the same arrivals: Poisson, {rates[0]:.0f} to {rates[-1]:.0f} requests a second, "
        f"{settings.load_ratio:g} of what the fleet serves at full width, {rounds} rounds of {settings.requests:,} in "
        f"{len(sessions)} session(s) with servers and profiles of their own, open loop, deadline "
        f"{settings.deadline_s * 1e3:g} ms, batches of {settings.max_batch_size} at most. In a round all policies meet "
        "the same arrivals, in a random order; simulated ones are repeated over "
        f"{settings.noise_draws} draws of service noise."
    )
    yield Text(
        "Router and sender have one core, the servers the other. Latency counts on both sides from when the router was "
        "given a request, which is also when it arrives in the simulation. What the simulator has not is off on the "
        "real side: Triton's own batcher, which joins batches that the router sent apart, probes, ejection, second "
        "attempts and shedding. A policy's round in which the sender was "
        f"{1e3 * DISTURBED_S:g} ms late is run again, because the machine stood still, up to {MOST_REPEATED} "
        "times in a session: "
        f"{sum(session.repeated for session in sessions)} were."
    )
    yield claims_table(draw_claims(report.pairs), decimals=4)
    yield Text(
        "A pair of policies differs beyond chance when its difference on the real side, round by round, is more than "
        f"{TIE_ERRORS:g} standard errors; of the others the real servers don't tell the order. Intervals are by draws "
        "of the rounds."
    )
    sides = ("real", "simulated")
    yield Table(
        (
            "policy",
            *(f"mean, {side}" for side in sides),
            "error",
            "chance",
            *(f"p99, {side}" for side in sides),
            "error",
            *(f"in time, {side}" for side in sides),
            *(f"accuracy, {side}" for side in sides),
        ),
        [_figures(pair) for pair in report.pairs],
    )
    yield Text(
        "Figures are means over rounds. Chance is the standard error of the mean's error over the rounds. Accuracy is "
        "that of the widths that answered, as the profile says."
    )
    yield Text(
        "The profile of the last session, in ms, of the smallest and the largest batch: one at a time, what a batch "
        "takes of a busy server, and latency after a rest. Spread is the standard deviation of the first over its mean."
    )
    yield Table(
        ("server", "width", "one at a time", "busy", "rested", "spread"),
        [_profile(row) for row in sessions[-1].profile],
    )


def _figures(pair: Pair) -> tuple[str, ...]:
    real, simulated = pair.real, pair.simulated
    return (
        f"`{pair.policy}`",
        *(f"{1e3 * side.mean_s:.2f} ms" for side in (real, simulated)),
        *(f"{pair.mean_error:+.1%}", f"{pair.mean_error_chance:.1%}"),
        *(f"{1e3 * side.p99_s:.1f} ms" for side in (real, simulated)),
        f"{pair.p99_error:+.1%}",
        *(f"{side.attainment_ratio:.2%}" for side in (real, simulated)),
        *(f"{side.accuracy:.4f}" for side in (real, simulated)),
    )


def _profile(row: ProfileRow) -> tuple[str, ...]:
    times = (_both_ms(row.alone_s), _both_ms(row.busy_s), _both_ms(row.rested_s))
    return (f"`{row.server}`", f"{row.width} %", *times, f"{row.spread:.1%}")


def _both_ms(times_s: tuple[float, float]) -> str:
    return f"{1e3 * times_s[0]:.2f}, {1e3 * times_s[1]:.1f}"
