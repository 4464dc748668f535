"""Runs a campaign: changes first when asked for, then rounds over all cells until every one is settled.

Servers are visited one after another and not side by side: on one machine they would measure each other, and where
each has its own a profile is taken once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.profile.document import batch_ladder
from orchestrator.profiling.changes import Control, describe_before, measure_cycle, restore
from orchestrator.profiling.probe import Clock, ProfiledServer, idle_window, visit_cell
from orchestrator.profiling.records import ModelKey, Records
from orchestrator.profiling.sampling import Cell, Sampling, is_settled, plan_round
from orchestrator.snapshot import ServedModel, ServerName
from orchestrator.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is: cells that are settled, and all, the round, and what is measured now, in words.

    The round is 0 while changes are measured.
    """

    settled: int
    cells: int
    round_number: int
    now: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to be measured.

    Attributes:
        client: What batches go through.
        telemetry: Readings of its host; None where it can't be read.
        control: What loads and unloads; None where nothing may be changed.
        has_counter: Whether telemetry reads energy.
    """

    name: ServerName
    client: ProfiledServer
    models: tuple[ServedModel, ...]
    telemetry: Telemetry | None
    control: Control | None = None
    has_counter: bool = False

    @property
    def meter(self) -> Telemetry | None:
        """Telemetry for windows of energy, None where there is none to be read."""
        return self.telemetry if self.has_counter else None


async def restore_left(controls: Mapping[ServerName, Control], records: Records) -> None:
    """Bring back what a killed campaign has left changed; raises SlimError when Triton does not."""
    for (server, model), before in list(records.unrestored.items()):
        if server in controls:
            await restore(controls[server], model, before)
            records.note_restored((server, model))


async def forget_records(partial: Path, controls: Mapping[ServerName, Control]) -> None:
    """Remove what was measured so far, after bringing back what a killed campaign has left changed.

    Raises:
        ConfigError: when something is left changed, and there is no control of its server.
        SlimError: when Triton does not bring it back.
    """
    left: Records | None = None
    with suppress(ConfigError):  # what can't be read may be why it is begun anew
        left = Records(partial)
    if left is not None:
        with left:
            await restore_left(controls, left)
        left.require_restored()
    partial.unlink(missing_ok=True)


async def measure_changes(
    subjects: Sequence[Subject],
    records: Records,
    sampling: Sampling,
    *,
    report: Callable[[Progress], None],
    clock: Clock,
) -> None:
    """Measure what changes of every model that may be changed cost, some cycles of each in turn.

    Raises:
        SlimError: when a server fails; what was measured is in the records.
    """
    by_name = {subject.name: subject for subject in subjects if subject.control is not None}
    keys: list[ModelKey] = sorted((name, model.name) for name, each in by_name.items() for model in each.models)
    for cycle in range(sampling.cycles):
        order = random.Random(f"{sampling.seed}-changes-{cycle}")
        for server, model in sorted(keys, key=lambda key: (order.random(), key)):
            subject = by_name[server]
            if len(records.cycles.get((server, model), ())) > cycle:
                continue
            assert subject.control is not None
            assert subject.telemetry is not None
            loaded = {each.name: each for each in await subject.control.loaded_models()}
            if model not in loaded:  # of a family that no controller there looks after, or of another repository
                continue
            report(Progress(0, len(list_cells(subjects)), 0, f"changes of {model} on {server}"))
            before = describe_before(loaded[model], server=server)
            records.add_before((server, model), before)
            tag = f"profile-{sampling.seed}-{cycle}-{len(records.cycles.get((server, model), ()))}"
            measured = await measure_cycle(
                subject.control,
                subject.telemetry,
                model,
                before,
                tag=tag,
                clock=clock,
                on_restored=partial(records.note_restored, (server, model)),
            )
            records.add_cycle((server, model), measured)


async def measure_batches(
    subjects: Sequence[Subject],
    records: Records,
    sampling: Sampling,
    *,
    report: Callable[[Progress], None],
    clock: Clock,
) -> None:
    """Visit all cells in rounds until each is settled.

    Raises:
        SlimError: when a server fails; what was measured is in the records.
    """
    by_name = {subject.name: subject for subject in subjects}
    models = {(subject.name, model.name): model for subject in subjects for model in subject.models}
    cells = list_cells(subjects)
    while True:
        number, order = plan_round(cells, records.visits, sampling)
        if not order:
            return
        for subject in subjects:
            if subject.meter is not None and len(records.idles.get(subject.name, ())) < number:
                window = await idle_window(subject.meter, sampling.idle_window_s, clock=clock)
                records.add_idle(subject.name, window)
        for cell in order:
            settled = sum(is_settled(records.visits.get(each, ()), sampling) for each in cells)
            report(Progress(settled, len(cells), number, f"{cell.model} × {cell.items} on {cell.server}"))
            subject = by_name[cell.server]
            visit = await visit_cell(
                subject.client,
                models[cell.server, cell.model],
                cell.items,
                sampling,
                telemetry=subject.meter,
                clock=clock,
            )
            records.add_visit(cell, visit)


def list_cells(subjects: Sequence[Subject]) -> tuple[Cell, ...]:
    """Return every batch size of every model of every server."""
    return tuple(
        Cell(subject.name, model.name, items)
        for subject in subjects
        for model in subject.models
        for items in batch_ladder(model.max_batch_size)
    )
