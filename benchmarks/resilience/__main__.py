"""``python -m benchmarks.resilience``: run the scenarios, write what they showed, show what is met."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from benchmarks.harness.command import Benchmark, Scenario, out_option, repository_option, source_option
from benchmarks.resilience.claims import draw_claims
from benchmarks.resilience.page import make_page
from benchmarks.resilience.picture import draw_picture
from benchmarks.resilience.results import Results
from benchmarks.resilience.scenarios.burst import run_burst
from benchmarks.resilience.scenarios.faults import FAULTS
from benchmarks.resilience.scenarios.outage import run_outage
from benchmarks.resilience.scenarios.soak import run_soak

BURST, SOAK = "burst", "soak"
SCENARIOS = (*FAULTS, BURST, SOAK)
BENCHMARK = Benchmark("resilience", "resilience benchmark", Results, draw_claims, make_page, draw_picture)


@click.command()
@repository_option
@out_option
@click.option(
    "--only", multiple=True, type=click.Choice(SCENARIOS), help="Run these alone; without --from, write nothing."
)
@source_option
@click.option("--soak-minutes", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Of mixed load.")
def main(repository: Path, out: Path, only: tuple[str, ...], source: Path | None, soak_minutes: float) -> None:
    """Run the benchmark of resilience; the exit status is 1 when a claim is not met."""
    scenarios: dict[str, Scenario] = {name: partial(run_outage, name, repository) for name in FAULTS}
    scenarios[BURST] = partial(run_burst, repository)
    scenarios[SOAK] = partial(run_soak, repository, minutes=soak_minutes)
    BENCHMARK.run(scenarios, out=out, only=only, source=source)


if __name__ == "__main__":
    main()
