"""What was measured, as values of JSON: a line for each set-up in each cell and round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.real.cells import Cell
from orchestrator.loadgen.records import OK, UNANSWERED, Records

PRESSED_S = 1.0
"""For so long after something was refused or late the narrowest width is to answer."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one set-up did in one cell and round.

    Attributes:
        rate_rps: Requests a second that were sent on average.
        right_in_time, in_time, late, refused: Parts of all requests, see orchestrator.loadgen.records.
        accuracy: Right answers of all answers; None without any.
        mean_s, p99_s: Of the latency of answers; None without any.
        sender_late_s: How late requests left that sent them, by the 99th percentile: where it is much of the deadline,
            that was measured.
        widths: The part of the answers that each width gave, by percentage.
        missed: The part of what was sent to a server that was not answered within its deadline; None of nothing.
        pressed: Answers while something had been refused or late within the last second, by ``pressed_widths``.
        pressed_wide: How many of them were wider than the narrowest width.
        senders_cores: Processor time of the senders over the time of the load.
        sender_mean_late_s: How late requests left on average.
    """

    cell: Cell
    round: int
    set_up: str
    rate_rps: float
    right_in_time: float
    in_time: float
    late: float
    refused: float
    accuracy: float | None
    mean_s: float | None
    p99_s: float | None
    sender_late_s: float
    widths: Mapping[str, float]
    missed: float | None
    pressed: int
    pressed_wide: int
    senders_cores: float
    sender_mean_late_s: float = 0.0

    def encode(self) -> dict[str, Any]:
        """Return values for JSON."""
        return asdict(self)


def decode_line(values: Mapping[str, Any]) -> Line:
    """Return the line that ``encode`` gave; raises KeyError and TypeError when it is none."""
    return Line(**{**values, "cell": Cell(**values["cell"])})


def mean_late_s(records: Records) -> float:
    """Return how long after they were due requests were sent, on average; 0 where none was."""
    is_sent = ~np.isnan(records.sent_s)
    return float((records.sent_s - records.due_s)[is_sent].mean()) if is_sent.any() else 0.0


def missed_part(records: Records, deadline_s: float) -> float | None:
    """Return the part of what was sent to a server that was not answered in time; None where nothing was.

    What ends as DEADLINE_EXCEEDED was sent and missed; who is refused is told otherwise (docs/protocol.md).
    """
    is_sent = np.isin(records.status, (OK, "DEADLINE_EXCEEDED", UNANSWERED))
    return float((~records.is_in_time(deadline_s))[is_sent].mean()) if is_sent.any() else None


def pressed_widths(records: Records, deadline_s: float) -> NDArray[np.int64]:
    """Return the widths that answered while something had been refused or late within the last second, in percent.

    When its width was chosen is not known of an answer, but that it was between its sending and its end. So one counts
    where something was refused or late before it was sent, and that was less than a second before it ended.
    """
    is_answered = (records.status == OK) & (records.width > 0)
    bad_s = np.sort(records.ended_s[~records.is_in_time(deadline_s) & ~np.isnan(records.ended_s)])
    before = np.searchsorted(bad_s, records.sent_s[is_answered], side="right")
    latest_s = np.append(-np.inf, bad_s)[before]
    widths: NDArray[np.int64] = records.width[is_answered]
    found: NDArray[np.int64] = widths[records.ended_s[is_answered] - latest_s < PRESSED_S]
    return found


def by_cell(lines: Iterable[Line]) -> dict[tuple[Cell, int], dict[str, Line]]:
    """Return the lines of each cell and round by set-up."""
    found: dict[tuple[Cell, int], dict[str, Line]] = {}
    for line in lines:
        found.setdefault((line.cell, line.round), {})[line.set_up] = line
    return found


def by_widths(lines: Iterable[Line], accuracies: Mapping[str, float]) -> list[Line]:
    """Return the lines with answers counted for as often as their width is right, which is by percentage.

    So that it does not count which images a run happened to send: networks answer an image always the same, and a short
    run at a low load, the only one that full width answers, sends few of them. Lines of other widths stay.
    """
    found = []
    for line in lines:
        if line.widths and line.widths.keys() <= accuracies.keys():
            accuracy = sum(accuracies[width] * part for width, part in line.widths.items())
            found.append(replace(line, accuracy=accuracy, right_in_time=accuracy * line.in_time))
        else:
            found.append(line)
    return found


def means_right(lines: Iterable[Line]) -> dict[Cell, dict[str, float]]:
    """Return how much each set-up answered right and in time in each cell, on average over its rounds."""
    found: dict[Cell, dict[str, list[float]]] = {}
    for line in lines:
        found.setdefault(line.cell, {}).setdefault(line.set_up, []).append(line.right_in_time)
    return {cell: {name: sum(all_) / len(all_) for name, all_ in own.items()} for cell, own in found.items()}


def behind_best(lines: Iterable[Line], own: str, baselines: Sequence[str]) -> Iterator[float]:
    """Yield by how much a set-up is behind the best of some others in each cell, by the means of its rounds.

    Only where all of them were measured; below 0 it is ahead of all.
    """
    for found in means_right(lines).values():
        if own in found and all(baseline in found for baseline in baselines):
            yield max(found[baseline] for baseline in baselines) - found[own]
