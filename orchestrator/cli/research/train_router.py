"""``slimsched train-router``: a routing policy learned in the simulator, as one file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.cli.options import FILE, FOLDER
from orchestrator.errors import ConfigError

_YAML = click.Path(path_type=Path, exists=True)


@click.command("train-router")
@click.option("--policy", "kind", type=click.Choice(["ppo-slim", "ppo-paper"]), default="ppo-slim")
@click.option("--out", type=FILE, required=True, help="The policy file.")
@click.option("--run", "folder", type=FOLDER, required=True, help="Of checkpoints.")
@click.option("--scenario", type=_YAML, help="Train on this alone; ppo-paper needs it. Else scenarios are drawn.")
@click.option(
    "--train", "beside", type=_YAML, multiple=True, help="Files or folders, varied and played beside drawn ones."
)
@click.option("--validation", "paths", type=_YAML, multiple=True, help="Files or folders; else drawn ones.")
@click.option("--validation-requests", "length", type=click.IntRange(10), default=6000)
@click.option("--traces", type=click.IntRange(1), default=2, help="Of each validation scenario.")
@click.option("--base", help="The heuristic that it rests on.  [default: lert:slack]")
@click.option("--steps", type=click.IntRange(0), help="Choices.  [default: 2,000,000]")
@click.option("--worlds", type=click.IntRange(1), help="At once.  [default: 64]")
@click.option("--replicas", type=click.IntRange(1), help="That share a trace.  [default: 4]")
@click.option("--rollout", type=click.IntRange(8), help="Choices a world between updates.  [default: 128]")
@click.option("--batch", type=click.IntRange(8), help="Choices a step of the optimiser.  [default: 512]")
@click.option("--requests", type=click.IntRange(10), help="Of an episode.  [default: 600]")
@click.option("--lessons", "demonstrations", type=click.IntRange(0), help="Choices to clone from.  [default: 60,000]")
@click.option("--clone-rounds", type=click.IntRange(1), help="In which lessons are collected.  [default: 6]")
@click.option("--clone-epochs", type=click.IntRange(1), help="Over all lessons, in each round.  [default: 6]")
@click.option("--strength", type=click.FloatRange(0), help="Of the base's choice in the scores.  [default: 5]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Of PPO.  [default: 0.0003]")
@click.option("--entropy", type=click.FloatRange(0), help="Weight in the loss.  [default: 0.001]")
@click.option(
    "--averaged", type=click.FloatRange(0, 1, max_open=True), help="Of the weights an update keeps.  [default: 0.9]"
)
@click.option("--warm-up", type=click.IntRange(0), help="Rollouts for the critic alone.  [default: 8]")
@click.option("--validate-every", type=click.IntRange(1), help="Updates.  [default: 10]")
@click.option("--patience", type=click.IntRange(1), help="Validations without a better one.  [default: 15]")
@click.option("--seed", type=int, help="Of everything.  [default: 0]")
@click.option("--threads", type=click.IntRange(1), default=2, help="That torch may use.")
@click.option("--resume", is_flag=True, help="Go on where the run in --run was interrupted.")
def train_router(
    kind: str,
    out: Path,
    folder: Path,
    scenario: Path | None,
    beside: Sequence[Path],
    paths: Sequence[Path],
    length: int,
    traces: int,
    threads: int,
    resume: bool,
    **given: Any,
) -> None:
    """Train a routing policy in the simulator and write the one that validated best.

    \b
    Example:
      slimsched train-router --run runs/slim --out policies/ppo-slim.npz
      slimsched train-router --policy ppo-paper --scenario scenarios/two-unlike.yaml --run runs/p --out policies/p.npz
    """
    try:
        from orchestrator.learning import training
        from orchestrator.learning.checkpoints import RunFolder
        from orchestrator.learning.validation import choose_validations, file_tasks, scenario_task
    except ImportError as exc:
        raise ConfigError(f"training needs {exc.name}; install it with pip install 'slim-scheduler[learn]'") from exc
    settings = training.TrainingSettings(kind=kind, **{key: value for key, value in given.items() if value is not None})
    training.use_threads(threads)
    task = None if scenario is None else scenario_task(scenario, requests=settings.requests)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} choices"), TimeRemainingColumn(),
        console=console,
    ) as progress:  # fmt: skip
        bar = progress.add_task(kind, total=max(1, settings.steps))

        def report(steps: int, line: str) -> None:
            progress.update(bar, completed=steps)
            if line:
                progress.console.print(line, highlight=False)

        validations = choose_validations(paths, scenario, traces=traces, base=settings.base, requests=length)
        run = RunFolder(folder)
        found = training.train(
            settings,
            run,
            validations,
            task=task,
            scenarios=file_tasks(beside),
            resume=resume,
            report=report,
        )
    _copy(run.best, out)
    click.echo(f"wrote {out}: {found.kind}, {found.validation['of']}, {found.validation['over_base']:+.4f} a request")


def _copy(best: Path, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, out)
    except OSError as exc:
        raise ConfigError(f"can't write {out} ({exc.strerror}); the policy is {best}") from exc
