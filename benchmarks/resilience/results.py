"""The raw numbers of a run; times in seconds from the beginning of their scenario's load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.controller.results import Machine
from orchestrator.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TimeBin:
    """What was answered in a quarter of a second; requests belong to the moment at which they were due.

    Attributes:
        at_s: its beginning.
        sent: requests that were due.
        by_width: answers in time, by width.
        by_server: likewise, by server.
        refused: requests that were told to come again.
        lost: all others.
        p50_s: median latency of what was answered; None when nothing was.
        worst_s: the longest.
    """

    at_s: float
    sent: int
    by_width: dict[str, int]
    by_server: dict[str, int]
    refused: int
    lost: int
    p50_s: float | None
    worst_s: float | None


@dataclass(frozen=True, slots=True)
class Outage:
    """One Triton of two fails under load, and is mended.

    Attributes:
        name: of the fault.
        detail: what was done.
        rps: requests sent a second.
        deadline_s: of each request, from when it was due.
        fault_at_s: when the fault began.
        mended_at_s: when its cause was gone and the server ready.
        sent: requests.
        answered: rightly, within the deadline.
        lost: neither answered nor answered in time, by what became of them.
        twice: requests with more than one answer.
        wrong: answers that are not what their width computes.
        last_wrong_s: after the fault; None when no answer was wrong.
        worst_s: longest latency of an answer.
        p99_before_s: of requests due before the fault.
        p99_after_s: of requests due after it.
        accuracy_before: mean expected accuracy of answers before the fault.
        accuracy_during: between the fault and the mending.
        noticed_after_s: from the fault to the last answer of the faulty server; None when it gave none.
        back_after_s: from the mending to the server's next answer; None when there was none.
        counted: requests that the gateway says have ended, less those sent.
        retries: that the gateway counts; None when it counts none.
        sender_late_s: by how much the client process was late with a request, at most.
        examples: messages of the first few lost.
        moments: over the whole load.
    """

    name: str
    detail: str
    rps: float
    deadline_s: float
    fault_at_s: float
    mended_at_s: float
    sent: int
    answered: int
    lost: dict[str, int]
    twice: int
    wrong: int
    last_wrong_s: float | None
    worst_s: float
    p99_before_s: float
    p99_after_s: float
    accuracy_before: float
    accuracy_during: float
    noticed_after_s: float | None
    back_after_s: float | None
    counted: int
    retries: int | None
    sender_late_s: float
    examples: tuple[str, ...]
    moments: tuple[TimeBin, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of constant load.

    Attributes:
        name: calm, pressed, burst, calm again, second burst or calm at last.
        from_s: its beginning.
        until_s: its end.
        rps: requests sent a second.
        sent: requests.
        in_time: answered within the deadline.
        late: answered after it.
        overdue: sent to a server, and told at the deadline that there is no answer.
        refused: told to come again.
        failed: with any other error, or never answered.
        narrowest_ratio: of the answers, at the narrowest width; None without answers.
        accuracy: mean expected accuracy of the answers; None without answers.
        worst_answer_s: longest latency of an answer.
        worst_refusal_s: longest time until a caller was told that there is no answer; None when none was.
        twice: requests with more than one answer.
    """

    name: str
    from_s: float
    until_s: float
    rps: float
    sent: int
    in_time: int
    late: int
    overdue: int
    refused: int
    failed: int
    narrowest_ratio: float | None
    accuracy: float | None
    worst_answer_s: float
    worst_refusal_s: float | None
    twice: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Five times what the fleet can answer.

    Attributes:
        items: in a request.
        deadline_s: of each request.
        wide_rps: requests a second that the fleet answers at full width, measured just before.
        narrow_rps: at the narrowest.
        phases: in order.
        narrowed_at_s: when the first request was due that was answered below full width, since the burst began.
        refused_at_s: when the first refusal came; None: none came.
        rss_bytes: what the gateway held at rest before, at the most until the end of each burst, and at rest after.
        gateway_cpu_ratio: of one core, that the gateway used during the bursts.
        sender_late_s: by how much the client process was late with a request, at most.
        examples: of failures.
        moments: over the whole load.
    """

    items: int
    deadline_s: float
    wide_rps: float
    narrow_rps: float
    phases: tuple[Phase, ...]
    narrowed_at_s: float | None
    refused_at_s: float | None
    rss_bytes: tuple[int, int, int, int]
    gateway_cpu_ratio: float
    sender_late_s: float
    examples: tuple[str, ...]
    moments: tuple[TimeBin, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """What the gateway's processes hold while nobody asks anything, by process.

    Attributes:
        rss_bytes: resident and of no file.
        descriptors: open.
        threads: of the kernel.
        tasks: of asyncio, in all workers.
        in_flight: requests, by the gateway's own count.
        requests: that it has counted since its start.
    """

    rss_bytes: dict[str, int]
    descriptors: dict[str, int]
    threads: dict[str, int]
    tasks: int
    in_flight: int
    requests: int


@dataclass(frozen=True, slots=True)
class SoakProcess:
    """Readings of one process of the gateway under load.

    Attributes:
        name: supervisor, or worker and number.
        at_s: when each was taken.
        rss_kib: resident and of no file.
        descriptors: open.
        threads: of the kernel.
    """

    name: str
    at_s: tuple[float, ...]
    rss_kib: tuple[int, ...]
    descriptors: tuple[int, ...]
    threads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Soak:
    """Mixed load for long.

    Attributes:
        took_s: the load.
        processes: of the gateway.
        tasks: of asyncio in all workers, with the time of each reading.
        before: at rest, after everything has been used once.
        after: at rest, when the load has ended.
        ended: what requests ended with, by kind of client.
        skipped: requests that the clients left out because too many were under way, by kind.
        unexpected: ends that their kind does not allow.
        examples: of these.
    """

    took_s: float
    processes: tuple[SoakProcess, ...]
    tasks: tuple[tuple[float, int], ...]
    before: Rest
    after: Rest
    ended: dict[str, dict[str, int]]
    skipped: dict[str, int]
    unexpected: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """A run.

    Attributes:
        taken_at: when it began, ISO 8601.
        machine: it was made on.
        versions: of what took part, by name.
        failures: why a scenario has no numbers, by its name.
        outages: by the name of the fault.
        taken_again: when a scenario was taken in a run of its own, by its name.
    """

    taken_at: str
    machine: Machine
    versions: dict[str, str]
    failures: dict[str, str]
    outages: dict[str, Outage] = field(default_factory=dict)
    burst: Burst | None = None
    soak: Soak | None = None
    taken_again: dict[str, str] = field(default_factory=dict)


def replace_scenarios(run: Results, again: Results, names: Sequence[str]) -> Results:
    """Return a run with some of its scenarios taken from another, which was made of these alone."""
    failures = {name: reason for name, reason in run.failures.items() if name not in names}
    merged = {**run.outages, **again.outages}
    single = {name: getattr(again, name) for name in ("burst", "soak") if name in names}
    return replace(
        run,
        **single,
        outages={n: o for n, o in merged.items() if n not in names or n in again.outages},
        failures={**failures, **again.failures},
        taken_again={**run.taken_again, **dict.fromkeys(names, again.taken_at)},
    )


def encode_results(results: Results) -> dict[str, Any]:
    """Return a run ready for JSON."""
    values: dict[str, Any] = _adapter().dump_python(results, mode="json")
    return values


def parse_results(values: object) -> Results:
    """Return the run that decoded JSON spells.

    Raises:
        ConfigError: when it is none.
    """
    try:
        return _adapter().validate_python(values)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"this is no run of the resilience benchmark ({path}: {problem['msg']})") from exc


@cache
def _adapter() -> TypeAdapter[Results]:
    return TypeAdapter(Results)
