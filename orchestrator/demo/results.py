"""What came of the runs: figures of each baseline, how they went over time, and what that comes to in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.demo.baselines import DEFAULT, Baseline
from orchestrator.loadgen.records import OK, Records, Summary, join_records, summarize
from orchestrator.snapshot import Width

LEVEL_POINTS = 0.5
"""Differences of so many points and less are not called one."""
BINS = 24
"""Parts of the time of a run, whose figures make its picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What one baseline did with one load; all baselines of a round got the same requests at the same times."""

    baseline: str
    records: Records


@dataclass(frozen=True, slots=True)
class Comparison:
    """Baselines under the same loads.

    Attributes:
        setting: What was run, one sentence each; says what is emulated.
        servers: Name and description of each server.
        widths: The widths, ascending.
        capacity_rps: What the servers can answer a second at full width.
        seconds: How long a load lasts.
        deadline_s: Of each request, from when it was due.
        baselines: Everybody who was to be measured.
        wanted: How many rounds were to be.
        turns: What came of each, in order; the last round may not have met all.
    """

    setting: tuple[str, ...]
    servers: tuple[tuple[str, str], ...]
    widths: tuple[Width, ...]
    capacity_rps: float
    seconds: float
    deadline_s: float
    baselines: tuple[Baseline, ...]
    wanted: int
    turns: tuple[Turn, ...]

    @property
    def is_whole(self) -> bool:
        """Whether everybody was measured in every round."""
        return len(self.turns) == self.wanted * len(self.baselines)

    @property
    def counted(self) -> tuple[Turn, ...]:
        """The turns of rounds that met all baselines; where none did, what there is of the first."""
        whole = len(self.turns) // len(self.baselines)
        return self.turns[: whole * len(self.baselines)] or self.turns


@dataclass(frozen=True, slots=True)
class Score:
    """How one baseline did.

    Attributes:
        summary: Of the requests of all rounds.
        by_round: Top-1 in time of each round, 0..1.
    """

    baseline: Baseline
    summary: Summary
    by_round: tuple[float, ...]

    @property
    def right_in_time(self) -> float:
        """Right answers within the deadline, of all requests, 0..1."""
        return _judged(self.summary)

    @property
    def missed(self) -> float:
        """Requests without an answer within the deadline, of all, 0..1."""
        return 1 - self.summary.in_time


def scores(comparison: Comparison) -> list[Score]:
    """Return how those who were measured did, in the order in which they are named."""
    found = []
    for baseline in comparison.baselines:
        own = [each.records for each in comparison.counted if each.baseline == baseline.name]
        if own:
            by_round = tuple(_judged(summarize(records, comparison.deadline_s)) for records in own)
            found.append(Score(baseline, summarize(join_records(own), comparison.deadline_s), by_round))
    return found


def _judged(summary: Summary) -> float:
    assert summary.right_in_time is not None  # its images are labelled
    return summary.right_in_time


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """One baseline over the time of a load, all rounds taken together, in ``BINS`` parts.

    Attributes:
        ends_s: When each part begins and the last one ends, float64 [BINS + 1].
        load: Requests that were due over what is answered at full width, float64 [BINS].
        answered: By each width within the deadline, of the requests that were due, float64 [BINS]; zero where none was.
        missed: Not within the deadline, likewise.
    """

    ends_s: NDArray[np.float64]
    load: NDArray[np.float64]
    answered: Mapping[Width, NDArray[np.float64]]
    missed: NDArray[np.float64]


def timeline(comparison: Comparison, baseline: str) -> Timeline:
    """Return how somebody who was measured did over time."""
    own = [each.records for each in comparison.counted if each.baseline == baseline]
    records, ends_s = join_records(own), np.linspace(0.0, comparison.seconds, BINS + 1)
    due = np.histogram(records.due_s, ends_s)[0]
    in_time = records.is_in_time(comparison.deadline_s)

    def share(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(np.histogram(records.due_s[chosen], ends_s)[0] / np.maximum(due, 1))

    load = due / len(own) / np.diff(ends_s) / comparison.capacity_rps
    answered = {width: share(in_time & (records.width == width)) for width in comparison.widths}
    return Timeline(ends_s, load, answered, share(~in_time))


def fill_in_width(records: Records, width: Width | None) -> Records:
    """Return records of who has one width and does not say so."""
    if width is None:
        return records
    is_unsaid = (records.status == OK) & (records.width == 0)
    return replace(records, width=np.where(is_unsaid, int(width), records.width))


def tell_outcome(found: Sequence[Score]) -> tuple[str, str]:
    """Return what the figures come to in a few words, and in a sentence with figures.

    The default is ahead where it is so in each round and by more than ``LEVEL_POINTS`` over all, and behind where it is
    so by more than that over all; everything else is level.
    """
    own = next((score for score in found if score.baseline.name == DEFAULT), None)
    if own is None or len(found) == 1:
        best = max(found, key=lambda score: score.right_in_time)
        return (
            f"{best.baseline.name}: {best.right_in_time:.1%} right and in time",
            "; ".join(f"{score.baseline.name} {score.right_in_time:.1%}" for score in found),
        )
    ahead, level, behind = (
        [score for score in found if score is not own and _compare(own, score) == sign] for sign in (1, 0, -1)
    )
    if behind:
        best = max(behind, key=lambda score: score.right_in_time)
        headline = f"{best.baseline.name} was right and in time more often than the default"
    elif level:
        names = _list(score.baseline.name for score in level)
        headline = f"The default was right and in time as often as {names}, and nobody more often"
    else:
        headline = "The default was right and in time more often than any rival"
    parts = [
        f"{word} {_list(f'{score.baseline.name} ({score.right_in_time:.1%})' for score in group)}"
        for word, group in (("behind", behind), ("level with", level), ("ahead of", ahead))
        if group
    ]
    sentence = f"The default answered {own.right_in_time:.1%} of the requests right and in time, {', '.join(parts)}."
    return headline, sentence


def _compare(own: Score, other: Score) -> int:
    """Return 1 when the default is ahead, -1 when it is behind, 0 when they are level."""
    points = (own.right_in_time - other.right_in_time) * 100
    if points < -LEVEL_POINTS:
        return -1
    is_always = all(mine > theirs for mine, theirs in zip(own.by_round, other.by_round, strict=False))
    return 1 if points > LEVEL_POINTS and is_always else 0


def _list(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
