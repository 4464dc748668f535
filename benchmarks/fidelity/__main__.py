"""``python -m benchmarks.fidelity``: runs both sides and writes page and JSON."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.fidelity.compare import Round, draw_claims, real_figures, simulated_figures
from benchmarks.fidelity.counterpart import make_counterpart
from benchmarks.fidelity.page import Report, make_document, make_page
from benchmarks.fidelity.sessions import Session, add_session, next_round, profile_rows, read_sessions
from benchmarks.fidelity.testbed import FidelitySettings, profiled_fleet, run_policies
from benchmarks.harness.command import Say, conclude, path_option, publish, repository_option, run_to_end, start_clock
from benchmarks.harness.machine import describe_machine, list_versions
from orchestrator.loadgen.sample import load_sample
from orchestrator.profile.document import read_profile

POLICIES = ("random", "weighted-random", "jsq", "sed", "lert", "lert:slack", "slackfit", "alert", "thrift")


@click.command()
@repository_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@path_option("--out", Path("docs/evaluation"))
@click.option("--policy", "policies", multiple=True, default=POLICIES, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--requests", type=click.IntRange(10), default=1500, show_default=True, help="Of a round.")
@click.option("--load", "load_ratio", type=click.FloatRange(0, min_open=True), default=0.6, show_default=True)
@click.option(
    "--sessions",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("build/fidelity"),
    show_default=True,
    help="Where sessions are kept; the page is made of all in it.",
)
@click.option("--more", is_flag=True, help="Other sessions follow: measure, and judge nothing yet.")
def main(
    repository: Path,
    sample: Path,
    out: Path,
    policies: tuple[str, ...],
    rounds: int,
    requests: int,
    load_ratio: float,
    folder: Path,
    more: bool,
) -> None:
    """Hold the simulator against real Tritons; the exit status is 1 when a bar is missed."""
    settings = FidelitySettings(repository, policies, rounds=rounds, requests=requests, load_ratio=load_ratio)
    machine, before = describe_machine(), read_sessions(folder)
    session = run_to_end(_measure(settings, next_round(before), sample, start_clock()))
    add_session(session, folder)
    if more:
        return
    report = Report(machine, list_versions(), settings, (*before, session))
    claims = draw_claims(report.pairs)
    publish("evaluation-real", out, make_document(report, claims), list(make_page(report)), indent=1)
    conclude(claims)


async def _measure(settings: FidelitySettings, first_round: int, sample_path: Path, say: Say) -> Session:
    taken_at, sample = datetime.now(UTC).isoformat(timespec="seconds"), load_sample(sample_path)
    with tempfile.TemporaryDirectory(prefix="bench-fidelity-") as folder:
        async with profiled_fleet(settings, Path(folder), say) as (fleet, path):
            profile = read_profile(path)
            counterpart = make_counterpart(profile, settings, first_round=first_round)
            say(f"{counterpart.rate_rps:.0f} requests a second")
            outcomes, repeated = await run_policies(fleet, path, settings, sample, counterpart.arrivals_s, say)
    say("simulating")
    accuracy_of = {model.width: model.accuracy for server in counterpart.servers for model in server.models}
    rounds = tuple(
        Round(
            policy,
            number,
            real_figures(done, accuracy_of),
            simulated_figures(counterpart.run(policy, number, [o.late_s for o in done], settings.noise_draws)),
        )
        for policy in settings.policies
        for number, done in zip(counterpart.traces, outcomes[policy], strict=True)
    )
    return Session(taken_at, counterpart.rate_rps, repeated, profile_rows(profile), rounds)


if __name__ == "__main__":
    main()
