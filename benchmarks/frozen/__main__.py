"""``python -m benchmarks.frozen``: choose, fit, judge, and report; what was run is kept until the report is written."""

from __future__ import annotations

import time
from pathlib import Path

import click

from benchmarks.frozen import DIGEST
from benchmarks.frozen.bars import best_single
from benchmarks.frozen.bounds import bound_of_moments
from benchmarks.frozen.drawing import FOLDER, digest_all, draw_all
from benchmarks.frozen.fits import Budget, fit_all
from benchmarks.frozen.judgement import FrozenSuite, plan
from benchmarks.harness.command import Say, conclude, path_option, start_clock
from benchmarks.suites.policies import DEFAULT, FALLBACK
from orchestrator.errors import SlimError
from orchestrator.evaluation.campaign import Records, run_campaign
from orchestrator.evaluation.cases import Case, Extent
from orchestrator.evaluation.document import describe_machine, make_document
from orchestrator.evaluation.page import check_outputs, write_outputs
from orchestrator.evaluation.scores import ScenarioScores, score_cases
from orchestrator.executors import Executor, open_executor

_WORLDS_SEED = 7_000_000
_EACH = 9  # drawn worlds of each of 23 kinds, 207 in all
_WORLD_TRACES = 2


@click.command()
@path_option("--out", Path("docs/evaluation"))
@path_option("--work", Path("reports/frozen"))
@click.option("--seconds", default=20.0, show_default=True, help="Processor time that each learner has.")
@click.option("--rule-seconds", default=8.0, show_default=True, help="Likewise, each rule that is tuned by itself.")
@click.option("--traces", default=5, show_default=True, help="Of each test scenario.")
@click.option("--validation-traces", default=3, show_default=True, help="Of each scenario, to choose by.")
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True, help="That fit and judge.")
@click.option("--each", default=_EACH, show_default=True, help="Drawn worlds of each kind.")
def main(
    out: Path,
    work: Path,
    seconds: float,
    rule_seconds: float,
    traces: int,
    validation_traces: int,
    processes: int,
    each: int,
) -> None:
    """Judge on the frozen scenarios; after an interruption the same command goes on."""
    try:
        extent, began_s = Extent(traces, validation_traces, seeds=1), time.monotonic()
        budget = Budget(seconds, rule_seconds)
        check_outputs(out)
        with open_executor(processes=processes) as execute:
            suite = judge(work, extent, budget=budget, each=each, execute=execute, say=start_clock())
        document = make_document(suite, extent, suite.narrowed(), describe_machine(time.monotonic() - began_s))
        written = write_outputs(suite, document, {}, out)
    except SlimError as exc:
        raise click.ClickException(str(exc)) from exc
    for path in written:
        click.echo(str(path))
    conclude(suite.draw_claims(suite.tests))


def judge(work: Path, extent: Extent, *, budget: Budget, each: int, execute: Executor, say: Say) -> FrozenSuite:
    """Return all that was found; ``work`` is the folder that keeps it.

    Raises:
        ConfigError: when a file can't be used or written.
    """
    if digest_all(FOLDER) != DIGEST:
        raise click.ClickException(f"{FOLDER} has changed since it was frozen; restore it")
    paths = sorted(FOLDER.glob("*.yaml"))
    with Records(work / "runs.jsonl", seeds=1, resume=True) as records:

        def run(name: str, cases: tuple[Case, ...]) -> tuple[ScenarioScores, ...]:
            def progress(done: int, of: int) -> None:
                if done % 100 == 0 or done == of:
                    say(f"{name}: {done} of {of} runs")

            run_campaign(cases, records, seeds=1, execute=execute, progress=progress)
            return score_cases(cases, records.results)

        ranking = best_single(run("validation", plan(paths, extent.validation_traces, None)))
        say(f"best single policy: {ranking[0][0]}, {ranking[0][1]:.4f}")
        single = ranking[0][0]
        fits = fit_all(plan(paths, 1, None), single, budget=budget, folder=work, execute=execute, say=say)
        tests = run("test", plan(paths, extent.traces, fits))
        worlds = run("drawn worlds", plan(_draw_worlds(work / "worlds", each), _WORLD_TRACES, {}, (DEFAULT, FALLBACK)))
    bounds = {test.case.stem: bound_of_moments(test) for test in tests}
    return FrozenSuite(tests, ranking, fits, bounds, worlds, budget)


def _draw_worlds(folder: Path, each: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for path, text in draw_all(_WORLDS_SEED, folder, Path.cwd(), each=each):
        path.write_text(text)
        found.append(path)
    return found


if __name__ == "__main__":
    main()
