"""The raw numbers of a run; times in seconds from the beginning of their scenario's load."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from benchmarks.harness.run import ScenarioRun


@dataclass(frozen=True, slots=True)
class TimeBin:
    """What was answered in a quarter of a second; requests belong to the time at which they were due.

    Attributes:
        at_s: When the bin begins.
        sent: Requests that were due.
        by_width: Answers in time, by width.
        by_server: Answers in time, by server.
        refused: Requests whose callers were asked to come again.
        lost: All other requests.
        p50_s: Median latency of what was answered; None when nothing was.
        worst_s: The longest latency; None when nothing was answered.
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
    """One Triton of two fails under load, and is repaired.

    Attributes:
        name: The fault's name.
        detail: What was done.
        rps: Requests sent a second.
        deadline_s: The deadline of each request, from when it was due.
        fault_at_s: When the fault began.
        mended_at_s: When its cause was gone and the server ready.
        sent: Requests that were sent.
        answered: Requests that were answered rightly, within the deadline.
        lost: Requests neither answered nor answered in time, by what became of them.
        twice: Requests with more than one answer.
        wrong: Answers that are not what their width computes.
        last_wrong_s: Time from the fault to the last of them; None when no answer was wrong.
        worst_s: The longest latency of an answer.
        p99_before_s: 99th percentile of the latencies of requests due before the fault.
        p99_after_s: 99th percentile of the latencies of requests due after it.
        accuracy_before: Mean expected accuracy of answers before the fault.
        accuracy_during: Mean expected accuracy between the fault and the repair.
        noticed_after_s: Time from the fault to the last answer of the faulty server; None when it gave none.
        back_after_s: Time from the repair to the server's next answer; None when there was none.
        counted: Requests that the gateway says have ended, less those sent.
        retries: Second attempts that the gateway counts; None when it counts none.
        sender_late_s: The most by which the client process was late with a request.
        examples: Messages of the first few lost.
        moments: The whole load in bins.
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
        name: Calm, pressed, burst, calm again, second burst or calm at last.
        from_s: When it begins.
        until_s: When it ends.
        rps: Requests sent a second.
        sent: Requests that were sent.
        in_time: Requests answered within the deadline.
        late: Requests answered after it.
        overdue: Requests sent to a server, whose callers heard at the deadline that there is no answer.
        refused: Requests whose callers were asked to come again.
        failed: Requests with any other error, or never answered.
        narrowest_ratio: Share of the answers at the narrowest width; None without answers.
        accuracy: Mean expected accuracy of the answers; None without answers.
        worst_answer_s: The longest latency of an answer.
        worst_refusal_s: The longest time until a caller heard that there is no answer; None when none was.
        twice: Requests with more than one answer.
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
        items: Items in a request.
        deadline_s: The deadline of each request.
        wide_rps: Requests a second that the fleet answers at full width, measured just before.
        narrow_rps: Requests a second that it answers at the narrowest.
        phases: The phases, in order.
        narrowed_at_s: When the first request was due that was answered below full width, since the burst began.
        refused_at_s: When the first refusal came; None: none came.
        rss_bytes: What the gateway held at rest before, at the most until the end of each burst, and at rest after.
        gateway_cpu_ratio: Share of one core that the gateway used during the bursts.
        sender_late_s: The most by which the client process was late with a request.
        examples: Messages of the first few failures.
        moments: The whole load in bins.
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
        rss_bytes: Resident memory of no file.
        descriptors: Open descriptors.
        threads: Threads of the kernel.
        tasks: Tasks of asyncio, in all workers.
        in_flight: Requests in flight, by the gateway's own count.
        requests: Requests that it has counted since its start.
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
        name: Supervisor, or worker and number.
        at_s: When each reading was taken.
        rss_kib: Resident memory of no file.
        descriptors: Open descriptors.
        threads: Threads of the kernel.
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
        took_s: How long the load took.
        processes: The gateway's processes.
        tasks: Tasks of asyncio in all workers, with the time of each reading.
        before: At rest, after everything has been used once.
        after: At rest, when the load has ended.
        ended: What requests ended with, by kind of client.
        skipped: Requests that the clients left out because too many were under way, by kind.
        unexpected: Ends that their kind does not allow.
        examples: The first few of these.
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


@dataclass(frozen=True, kw_only=True)
class Results(ScenarioRun):
    """A run.

    Attributes:
        outages: By the name of the fault, each a scenario.
        burst: What a burst did.
        soak: What mixed load for long did.
    """

    outages: dict[str, Outage] = field(default_factory=dict)
    burst: Burst | None = None
    soak: Soak | None = None

    def found(self, name: str) -> Outage | Burst | Soak | None:
        """Return what a scenario found; None where it has no numbers."""
        single: dict[str, Burst | Soak | None] = {"burst": self.burst, "soak": self.soak}
        return single[name] if name in single else self.outages.get(name)

    def with_found(self, name: str, found: Any) -> Self:
        """Return the run with what a scenario found; None: nothing."""
        if name in ("burst", "soak"):
            return replace(self, **{name: found})
        others = {key: outage for key, outage in self.outages.items() if key != name or found is not None}
        return replace(self, outages=others if found is None else {**others, name: found})
