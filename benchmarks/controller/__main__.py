"""``python -m benchmarks.controller``: run the scenarios, write page, picture and JSON, show what is met.

It is no command of ``slimsched``: users of the controller don't need it, and it installs what they don't.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from benchmarks.controller.claims import draw_claims
from benchmarks.controller.page import make_page
from benchmarks.controller.picture import draw_picture
from benchmarks.controller.results import Results
from benchmarks.controller.scenarios.budget import run_budget
from benchmarks.controller.scenarios.cost import run_cost
from benchmarks.controller.scenarios.kills import run_kills
from benchmarks.controller.scenarios.reconfigurations import run_reconfigurations
from benchmarks.controller.scenarios.rising import run_rising
from benchmarks.harness.command import Benchmark, out_option, repository_option, source_option

SCENARIOS = {
    "rising": run_rising,
    "reconfigurations": run_reconfigurations,
    "budget": run_budget,
    "kills": run_kills,
    "cost": run_cost,
}
BENCHMARK = Benchmark("controller", "controller's benchmark", Results, draw_claims, make_page, draw_picture)


@click.command()
@repository_option
@out_option
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Run these alone and write nothing.")
@source_option
def main(repository: Path, out: Path, only: tuple[str, ...], source: Path | None) -> None:
    """Run the controller's benchmark; the exit status is 1 when a claim is not met."""
    scenarios = {name: partial(run, repository) for name, run in SCENARIOS.items()}
    BENCHMARK.run(scenarios, out=out, only=only, source=source)


if __name__ == "__main__":
    main()
