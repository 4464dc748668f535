"""``python -m benchmarks.fidelity``: runs both sides and writes page and JSON."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.controller.machine import describe_machine, list_versions
from benchmarks.fidelity.compare import Round, draw_claims, real_figures, simulated_figures
from benchmarks.fidelity.counterpart import make_counterpart
from benchmarks.fidelity.page import Report, render_json, render_page
from benchmarks.fidelity.sessions import Session, next_round, profile_rows, read_sessions, write_session
from benchmarks.fidelity.testbed import FidelitySettings, profiled_fleet, run_policies
from orchestrator.demo.sample import load_sample
from orchestrator.errors import SlimError
from orchestrator.profile import read_profile

POLICIES = ("random", "weighted-random", "jsq", "sed", "lert", "lert:slack", "slackfit", "alert")
STEM = "evaluation-real"
_SAMPLE = Path("examples/fashion-mnist/test_1000.npz")


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
@click.option("--sample", type=click.Path(path_type=Path), default=_SAMPLE, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/evaluation"), show_default=True)
@click.option("--policy", "policies", multiple=True, default=POLICIES, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--requests", type=click.IntRange(10), default=1500, show_default=True, help="Of a round.")
@click.option("--load", "load_ratio", type=click.FloatRange(0, min_open=True), default=0.6, show_default=True)
@click.option(
    "--sittings",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("build/fidelity"),
    show_default=True,
    help="Where sittings are kept; the page is made of all in it.",
)
@click.option("--more", is_flag=True, help="Other sittings follow: measure, and judge nothing yet.")
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
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {text}")

    settings = FidelitySettings(repository, policies, rounds=rounds, requests=requests, load_ratio=load_ratio)
    machine = describe_machine()
    try:
        before = read_sessions(folder)
        session = asyncio.run(_sit(settings, next_round(before), sample, say))
    except SlimError as exc:
        raise click.ClickException(str(exc)) from exc
    write_session(session, folder, number=len(before))
    if more:
        return
    report = Report(machine, list_versions(), settings, (*before, session))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{STEM}.md").write_text(render_page(report))
    (out / f"{STEM}.json").write_text(render_json(report))
    click.echo(render_page(report))
    if not all(claim["met"] for claim in draw_claims(report.pairs)):
        sys.exit(1)


async def _sit(settings: FidelitySettings, first_round: int, sample_path: Path, say: Callable[[str], None]) -> Session:
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it started first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
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
