"""``slimsched train-router``: a routing policy fitted to one fleet and its traffic, as one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.cli.options import FILE, FOLDER, FiniteRange, ShippedPath, dask_option, refuse_given, seed_option
from orchestrator.cli.research.output import figures_table, told_how_to_go_on, wide_console
from orchestrator.config.fleet import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.executors import Executor, open_executor
from orchestrator.installed.extras import install_hint
from orchestrator.reporting.blocks import say_figure
from orchestrator.reporting.outputs import check_folder, check_not_read, write_file

if TYPE_CHECKING:
    from orchestrator.learning.judging import Candidate
    from orchestrator.learning.traffic import Traffic

_PATH = ShippedPath(path_type=Path, exists=True)
_ELSEWHERE = "choose another place with --out"
_OF_ANOTHER = {
    "--policy fitted": ("weights",),
    "--policy ppo-paper": ("profile", "arrivals", "family", "present", "learners", "threads", "dask"),
    "--validate": ("kind", "minutes", "weights", "learners", "seed", "folder", "resume"),
}
"""The options that count for nothing with each."""


@click.command("train-router")
@click.option("--policy", "kind", type=click.Choice(["fitted", "ppo-paper"]), default="fitted")
@click.option("--scenario", type=_PATH, help="Of fleet and traffic; ppo-paper needs it.")
@click.option("--profile", type=_PATH, help="Of the fleet, in place of a scenario.")
@click.option("--family", help="Of whose requests; needed where profile or log have several.")
@click.option(
    "--arrivals", type=_PATH, help="Timestamps, an access log as JSON, or a decision log or a folder of such."
)
@click.option("--deadline-ms", type=FiniteRange(0, 1e9, min_open=True), help="With --profile.  [default: 100]")
@click.option(
    "--energy-weight",
    type=FiniteRange(0, 1e6),
    help="With --profile: accuracy that all joules a request could cost are worth.  [default: 2/15]",
)
@click.option("--present", default=RouterSettings().policy, show_default=True, help="The policy in force.")
@click.option("--minutes", type=FiniteRange(0), default=2.0, show_default=True, help="For each learner.")
@click.option(
    "--weights",
    nargs=3,
    type=FiniteRange(0),
    metavar="ACCURACY LATENCY ENERGY",
    help="Of ppo-paper's reward; scaled to add up to 1.  [default: utility, as for all others]",
)
@click.option("--learner", "learners", type=click.Choice(["evolution", "ppo"]), multiple=True, help="Else both.")
@seed_option
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Cores to use.")
@click.option("--run", "folder", type=FOLDER, help="Of checkpoints.  [default: OUT.run]")
@click.option("--resume", is_flag=True, help="Go on where the run was interrupted.")
@click.option(
    "--validate",
    "given",
    type=_PATH,
    multiple=True,
    help="A policy file to hold against --present; nothing is learned. Several times for several.",
)
@dask_option
@click.option("--out", type=FILE, required=True, help="The policy file; its report lies beside it as .json.")
def train_router(
    kind: str,
    scenario: Path | None,
    profile: Path | None,
    family: str | None,
    arrivals: Path | None,
    deadline_ms: float | None,
    energy_weight: float | None,
    present: str,
    minutes: float,
    weights: tuple[float, float, float] | None,
    learners: tuple[str, ...],
    seed: int,
    threads: int,
    folder: Path | None,
    resume: bool,
    given: tuple[Path, ...],
    dask: str | None,
    out: Path,
) -> None:
    """Fit a policy to a fleet and its traffic; promote it only where it is better than the one in force.

    Evolution of rules and PPO have the same time. The policy file is written only when the best of all is better on
    traffic that was held out; serve it as policy ``fitted``. With --validate policies that were fitted before are
    judged so, and only the report is written; what is done lies in OUT.partial meanwhile, and the same command goes on
    from there. Policies are judged on a cluster with --dask, and learn here.

    \b
    Example:
      slimsched train-router --scenario scenarios/two-unlike.yaml --out policies/fitted.npz
      slimsched train-router --profile profile.json --arrivals decisions/ --deadline-ms 50 --out policies/fitted.npz
      slimsched train-router --scenario scenarios/two-unlike.yaml --validate policies/fitted.npz --out validation.json
    """
    with learning_installed():
        from orchestrator.learning import fitting, tasks
    given_objectives = {"deadline_ms": deadline_ms, "energy_weight": energy_weight}
    objectives = {key: value for key, value in given_objectives.items() if value is not None}
    what = "--validate" if given else f"--policy {kind}"
    refuse_given(click.get_current_context(), _OF_ANOTHER[what], what)
    inputs = [scenario, profile, arrivals, *given]
    run_folder = folder or out.with_name(out.name + ".run")
    traffic = tasks.given_traffic(scenario, profile, arrivals, objectives, family=family)
    if given:
        validate(traffic, present, given, out, inputs, dask=dask, threads=threads)
        return
    if kind == "ppo-paper":
        check_not_read(out, inputs)
        _train_paper(traffic, weights, run_folder, out, seconds=60 * minutes, seed=seed, resume=resume)
        return
    learners = learners or ("evolution", "ppo")
    settings = fitting.FitSettings(present, seconds=60 * minutes, seed=seed, threads=threads, learners=learners)
    with open_executor(dask=dask) as execute:
        fit_and_write(traffic, settings, run_folder, out, inputs, resume=resume, execute=execute if dask else None)


def _train_paper(
    traffic: Traffic,
    weights: tuple[float, float, float] | None,
    folder: Path,
    out: Path,
    *,
    seconds: float,
    seed: int,
    resume: bool,
) -> None:
    """Train ppo-paper and write it; raises ConfigError when fleet, weights, run or file can't be used."""
    from orchestrator.learning.checkpoints import open_run
    from orchestrator.learning.evolution import PORTFOLIO
    from orchestrator.learning.ppo.paper import identity, train_paper
    from orchestrator.policies.learned.policy_file import write_policy_file

    check_folder(out.parent, _ELSEWHERE)
    with open_run(folder, identity(traffic, weights, seed), resume=resume) as run:
        with told_how_to_go_on(folder, "--resume", is_kept=run.is_kept), fitting_progress() as report:
            file = train_paper(traffic, weights, run, rules=PORTFOLIO, seconds=seconds, seed=seed, report=report)
        write_policy_file(out, file)
        run.end()
    click.echo(f"wrote {out}: {file.kind}, after {file.provenance['choices']:,} choices")


def validate(
    traffic: Traffic,
    present: str,
    given: Sequence[Path],
    out: Path,
    inputs: Sequence[Path | None],
    *,
    dask: str | None,
    threads: int,
) -> None:
    """Hold policy files against the policy in force, print what came of it, and write the report.

    Raises:
        ConfigError: when a policy or the cluster can't be used, or the report can't be written.
    """
    from orchestrator.evaluation.cases import identities
    from orchestrator.evaluation.kept import keep_results
    from orchestrator.learning.judging import given_policies, judge, promote
    from orchestrator.learning.report import describe_judgement, report_path
    from orchestrator.policies.learned.policy import FITTED
    from orchestrator.simulation.scenario.digest import digest_scenario

    report = report_path(out, inputs, has_policy=False)
    entries = given_policies(present, given)
    about = {
        "scenario": digest_scenario(traffic.task.settings, traffic.task.servers),
        "arrivals": traffic.digest,
        "crowding": traffic.task.crowding,
        "policies": identities([present, *(f"{FITTED}:{path}" for path in given)]),
    }
    with (
        open_executor(processes=threads, dask=dask) as pool,
        keep_results(out, about, dict[str, float | None], pool) as execute,
    ):
        candidates = judge(traffic, entries, execute)
        better, why = promote(candidates)
        text = json.dumps(describe_judgement(candidates, better, why, traffic), indent=1, allow_nan=False) + "\n"
        write_file(report, text, remedy=_ELSEWHERE)
    _print(candidates, traffic)
    click.echo(why)


def fit_and_write(
    traffic: Traffic,
    settings: Any,
    folder: Path,
    out: Path,
    inputs: Sequence[Path | None],
    *,
    resume: bool,
    restart: bool = False,
    execute: Executor | None = None,
) -> None:
    """Fit, print what came of it, and write the policy where one is promoted, and the report.

    ``inputs`` are files that neither may replace. What was learned is kept until both are written.

    Raises:
        ConfigError: when the policy in force or the run can't be used, or a file can't be written.
    """
    from orchestrator.learning import fitting
    from orchestrator.learning.checkpoints import open_run
    from orchestrator.learning.report import describe_fit, report_path

    beside = report_path(out, inputs)
    with open_run(folder, fitting.identity(traffic, settings), resume=resume, restart=restart) as run:
        with told_how_to_go_on(folder, "--resume", is_kept=run.is_kept), fitting_progress() as report:
            fit = fitting.fit(traffic, settings, run, report=report, execute=execute)
        if fit.promoted is not None:
            fitting.write_promoted(out, fit.promoted)
        text = json.dumps(describe_fit(fit, traffic, settings), indent=1, allow_nan=False) + "\n"
        write_file(beside, text, remedy=_ELSEWHERE)
        run.end()
    _print(fit.candidates, traffic)
    click.echo(fit.why)
    if fit.promoted is None:
        click.echo(f"{settings.present} stays in force; no policy was written")
        return
    served = f"router.policy: fitted and router.policy_file: {out}"
    click.echo(f"wrote {out}; serve it with {served}, where a router that runs rolls it out")


@contextmanager
def learning_installed() -> Iterator[None]:
    """Say what to install where a package that learning needs is missing."""
    try:
        yield
    except ImportError as exc:
        raise ConfigError(f"'slimsched train-router' needs {exc.name}: {install_hint('learn')}") from exc


@contextmanager
def fitting_progress() -> Iterator[Callable[[float, str], None]]:
    """Show a bar on stderr; yields a function that takes which part is done, and a line to print or none."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("fitting", total=1.0)

        def report(part: float, line: str) -> None:
            progress.update(bar, completed=part)
            if line:
                progress.console.print(line, highlight=False)

        yield report


def _print(candidates: Sequence[Candidate], traffic: Traffic) -> None:
    title, crowding = f"{traffic.task.settings.name}, on held-out traffic", traffic.task.crowding
    if crowding > 1:
        title += f"; utility is the mean with that of arrivals {crowding:g} times as dense"
    table = figures_table(
        title, ("utility", "better by", "in time", "accuracy", "J/answer"), names=("origin", "policy")
    )
    for candidate in candidates:
        own = candidate.figures
        difference = "-" if candidate.file is None else f"{candidate.better_by.value:+.4f}"
        forms = (("attainment_ratio", ".2%"), ("accuracy", ".4f"), ("joules_per_answer", ".4g"))
        figures = (say_figure(own[name], form) for name, form in forms)
        table.add_row(candidate.origin, candidate.spec, say_figure(own["utility"], ".4f"), difference, *figures)
    wide_console(120).print(table)
