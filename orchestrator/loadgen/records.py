"""What became of each request, in arrays, and the figures of a run.

Latency counts from when a request was due, so a sender that falls behind makes itself visible instead of flattering
what it measures (no coordinated omission).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError

Floats = NDArray[np.float64]
OK = "OK"
UNANSWERED = "UNANSWERED"
"""When the run was over."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """A line a request, in the order in which they were due.

    Attributes:
        due_s: When each was to be sent, from the beginning of the run, float64 [n].
        sent_s: When it was sent; NaN: never.
        ended_s: When its answer or refusal was there; NaN: never.
        status: How it ended, the name of gRPC's status; str [n].
        width: The width in percent that answered it; 0: nobody, or it isn't known; int64 [n].
        server: Who answered it; empty: nobody, or it isn't known; str [n].
        decision: The id of the router's decision, see ``slimsched why``; empty: it isn't known; str [n].
        policy: Which policy decided, or a rule in its place; empty: it isn't known; str [n].
        quality: How good the answer is, by the metric of the run, float64 [n]: of top-1 1 where the class with the
            highest score is the true one, else 0. 0 without an answer; NaN: nobody can say.
        energy_j: What it is expected to have cost above idle, by the profile that its router has, float64 [n]; NaN: it
            isn't known.
        details: Why requests were refused, one text of each status.
        cpu_s: Processor seconds that all of it took of the senders.
    """

    due_s: Floats
    sent_s: Floats
    ended_s: Floats
    status: NDArray[np.str_]
    width: NDArray[np.int64]
    server: NDArray[np.str_]
    decision: NDArray[np.str_]
    policy: NDArray[np.str_]
    quality: Floats
    energy_j: Floats
    details: Mapping[str, str]
    cpu_s: float = 0.0

    @property
    def latency_s(self) -> Floats:
        """Time from when each was due until it ended; NaN: it never did."""
        return self.ended_s - self.due_s

    def after(self, from_s: float) -> Records:
        """Return what was due from then on."""
        return self.where(self.due_s >= from_s)

    def where(self, chosen: NDArray[np.bool_]) -> Records:
        """Return some of the lines."""
        arrays = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        return Records(**arrays, details=self.details, cpu_s=self.cpu_s)

    def is_in_time(self, deadline_s: float) -> NDArray[np.bool_]:
        """Return which were answered within so long from when they were due."""
        in_time: NDArray[np.bool_] = (self.status == OK) & (self.latency_s <= deadline_s)
        return in_time


_ARRAYS = ("due_s", "sent_s", "ended_s", "status", "width", "server", "decision", "policy", "quality", "energy_j")


def save_records(records: Records, path: Path) -> None:
    """Write a file that ``load_records`` reads."""
    arrays = {name: getattr(records, name) for name in _ARRAYS}
    statuses = np.array(list(records.details), dtype=np.str_)
    texts = np.array(list(records.details.values()), dtype=np.str_)
    with path.open("wb") as target:
        np.savez(target, detail_statuses=statuses, detail_texts=texts, cpu_s=records.cpu_s, **arrays)


def load_records(path: Path) -> Records:
    """Return what ``save_records`` wrote; raises ConfigError when the file is none of its files, or cut."""
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as found:
            details = dict(zip(found["detail_statuses"].tolist(), found["detail_texts"].tolist(), strict=True))
            arrays = {name: found[name] for name in _ARRAYS}
            return Records(**arrays, details=details, cpu_s=float(found["cpu_s"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"{path} holds no records of a run ({type(exc).__name__}: {exc})") from exc


def join_records(parts: Sequence[Records]) -> Records:
    """Return the records of several senders, at least one, as one, in the order in which requests were due."""
    order = np.argsort(np.concatenate([part.due_s for part in parts]), kind="stable")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in _ARRAYS}
    details: dict[str, str] = {}
    for part in parts:
        details.update(part.details)
    return Records(**arrays, details=details, cpu_s=sum(part.cpu_s for part in parts))


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run.

    Ratios are 0..1. Accuracy and latencies are of the answers, None without any. What nobody judged has no accuracy.

    Attributes:
        requests: How many were due.
        right_in_time: Right answers within the deadline, of all requests: top-1 in time. Of other metrics the mean
            quality, counting 0 where no answer came in time; None where nobody judged.
        in_time: Answers within the deadline, of all requests.
        late: Answers after the deadline, and requests that ended otherwise after it, of all requests.
        refused: Requests that ended without an answer, within the deadline, of all requests.
        accuracy: Right answers of all answers, or their mean quality.
        mean_s: Mean latency.
        p50_s: Median latency.
        p99_s: Its 99th percentile.
        widths: The part of the answers that each width gave, by percentage.
        servers: The part of the answers that each server gave.
        statuses: How many requests ended with each status.
        sender_late_s: The 99th percentile of how long after it was due a request was sent.
        std_s: The standard deviation of latency.
        energy_j: Mean joules of an answer above idle, as its router expects them; None where they aren't known of all.
        policies: The part of the answers that each policy decided; another than the one that was asked for is what a
            router's guard put in its place. Empty where answers don't say.
    """

    requests: int
    right_in_time: float | None
    in_time: float
    late: float
    refused: float
    accuracy: float | None
    mean_s: float | None
    p50_s: float | None
    p99_s: float | None
    widths: Mapping[int, float]
    servers: Mapping[str, float]
    statuses: Mapping[str, int]
    sender_late_s: float
    std_s: float | None = None
    energy_j: float | None = None
    policies: Mapping[str, float] = field(default_factory=dict)


def summarize(records: Records, deadline_s: float) -> Summary:
    """Return the figures of at least one request.

    Raises:
        ConfigError: There is none.
    """
    requests = len(records.due_s)
    if requests == 0:
        raise ConfigError("no request was due after the warm-up; send for longer, or at a higher rate")
    answered, judged = records.status == OK, ~np.isnan(records.quality)
    in_time = records.is_in_time(deadline_s)
    over = ~in_time & ~(records.latency_s <= deadline_s)
    latency_s = records.latency_s[answered]
    statuses, counts = np.unique(records.status, return_counts=True)
    return Summary(
        requests=requests,
        right_in_time=float(records.quality[in_time & judged].sum() / judged.sum()) if judged.any() else None,
        in_time=float(in_time.sum()) / requests,
        late=float(over.sum()) / requests,
        refused=float((~in_time & ~over).sum()) / requests,
        accuracy=float(records.quality[answered & judged].mean()) if (answered & judged).any() else None,
        mean_s=float(latency_s.mean()) if answered.any() else None,
        p50_s=float(np.quantile(latency_s, 0.5)) if answered.any() else None,
        p99_s=float(np.quantile(latency_s, 0.99)) if answered.any() else None,
        widths=_shares(records.width[answered]),
        servers=_shares(records.server[answered]),
        statuses={str(name): int(count) for name, count in zip(statuses, counts, strict=True)},
        sender_late_s=_late_s(records),
        std_s=float(latency_s.std()) if answered.any() else None,
        energy_j=_mean_j(records.energy_j[answered]),
        policies={name: part for name, part in _shares(records.policy[answered]).items() if name},
    )


def _mean_j(energy_j: Floats) -> float | None:
    return None if not len(energy_j) or np.isnan(energy_j).any() else float(energy_j.mean())


def _shares(values: NDArray[Any]) -> dict[Any, float]:
    kinds, counts = np.unique(values, return_counts=True)
    return {kind.item(): float(count) / len(values) for kind, count in zip(kinds, counts, strict=True)}


def _late_s(records: Records) -> float:
    late_s = (records.sent_s - records.due_s)[~np.isnan(records.sent_s)]
    return float(np.quantile(late_s, 0.99)) if len(late_s) else 0.0
