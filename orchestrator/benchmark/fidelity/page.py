"""The comparison as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.benchmark.controller.results import Machine
from orchestrator.benchmark.fidelity.compare import Pair, draw_claims
from orchestrator.benchmark.fidelity.stage import FidelitySettings
from orchestrator.profile import Profile


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run has found.

    Attributes:
        taken_at: ISO 8601.
        machine: it was made on.
        versions: of what took part.
        settings: of the run.
        rate_rps: requests a second.
        profile: that was measured and simulated.
        pairs: one a policy.
    """

    taken_at: str
    machine: Machine
    versions: dict[str, str]
    settings: FidelitySettings
    rate_rps: float
    profile: Profile
    pairs: tuple[Pair, ...]


def render_json(report: Report) -> str:
    """Return everything but the profile, of which the page shows the lines."""
    settings = asdict(report.settings)
    settings["repository"] = report.settings.repository.name
    values = {
        "suite": "real",
        "taken_at": report.taken_at,
        "machine": asdict(report.machine),
        "versions": report.versions,
        "settings": settings,
        "rate_rps": report.rate_rps,
        "claims": draw_claims(report.pairs),
        "rows": [{**asdict(p), "mean_error": p.mean_error, "p99_error": p.p99_error} for p in report.pairs],
    }
    return json.dumps(values, indent=1) + "\n"


def render_page(report: Report) -> str:
    """Return the page."""
    return "\n".join([*_introduction(report), *_claims(report.pairs), *_figures(report.pairs), *_profile(report), ""])


def _introduction(report: Report) -> list[str]:
    settings, machine = report.settings, report.machine
    return [
        "# Real servers against the simulator",
        "",
        f"Made by `make bench-fidelity` on {report.taken_at[:10]}, on {machine.cpu}, {machine.cpus} cores.",
        "",
        "Two embedded tritonservers, each with one core, emulated 8 and 24 times slower, serve the demo family. They",
        "are profiled, and the profile alone is what the simulator gets: no number of the real runs is fitted. Then",
        f"both get the same arrivals: Poisson, {report.rate_rps:.0f} requests a second, {settings.load_ratio:g}",
        f"of what the fleet serves at full width, {settings.rounds} rounds of {settings.requests:,}, open loop,",
        f"deadline {settings.deadline_s * 1e3:g} ms, batches of {settings.max_batch_size} at most. Real rounds run",
        f"in an order drawn by lot; simulated ones are repeated over {settings.noise_draws} draws of service noise.",
        "Probes, ejection, second attempts and shedding are off on the real side: the simulator has none.",
        "",
    ]


def _claims(pairs: Sequence[Pair]) -> list[str]:
    rows = [
        f"| {c['name']} | {c['value']} | {'≥' if c['is_floor'] else '≤'} {c['bar']} | {'yes' if c['met'] else 'no'} |"
        for c in draw_claims(pairs)
    ]
    return ["| promise | value | bar | met |", "|---|---:|---:|---|", *rows, ""]


def _figures(pairs: Sequence[Pair]) -> list[str]:
    sides = "real | simulated |"
    head = f"| policy | mean, {sides} error | chance | p99, {sides} error | in time, {sides} accuracy, {sides}"
    rows = [
        f"| `{p.policy}` | {1e3 * p.real.mean_s:.2f} ms | {1e3 * p.simulated.mean_s:.2f} ms | {p.mean_error:+.1%} "
        f"| {p.spread:.1%} | {1e3 * p.real.p99_s:.1f} ms | {1e3 * p.simulated.p99_s:.1f} ms | {p.p99_error:+.1%} "
        f"| {p.real.attainment_ratio:.2%} | {p.simulated.attainment_ratio:.2%} "
        f"| {p.real.accuracy:.4f} | {p.simulated.accuracy:.4f} |"
        for p in pairs
    ]
    return [
        head,
        f"|---|{'---:|' * 11}",
        *rows,
        "",
        "Chance is the standard deviation of the simulated mean over draws of noise and lots: the real side has one",
        "draw a round. Accuracy is that of the widths that answered, as the profile says.",
        "",
    ]


def _profile(report: Report) -> list[str]:
    rows = [
        f"| `{server.name}` | {model.width} % | {1e3 * model.line.item_s:.2f} | {1e3 * model.line.group_s:.2f} "
        f"| {1e3 * model.batches[0].mean_s:.2f} | {1e3 * model.batches[-1].mean_s:.1f} |"
        for server in report.profile.servers
        for model in server.models
    ]
    return [
        "The profile of this run, in ms: a line a·n + b, and the means of the smallest and the largest batch.",
        "",
        "| server | width | a | b | smallest | largest |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
