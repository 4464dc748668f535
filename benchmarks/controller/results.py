"""The raw numbers of a run, one dataclass a scenario."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.perf_analyzer import Latency
from benchmarks.harness.run import ScenarioRun


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Latency at a fixed number of instances, without a controller."""

    batch: int
    instances: int
    latency: Latency


@dataclass(frozen=True, slots=True)
class TracePoint:
    """Triton at one time, from its model config and its counters.

    Attributes:
        at_s: Time since the load began; negative before.
        instances: Instances of the loaded width.
        requests: Requests answered since the start of the trace.
        queue_s: Time that these waited, summed.
    """

    at_s: float
    instances: int
    requests: int
    queue_s: float


@dataclass(frozen=True, slots=True)
class Repetition:
    """One fixed instance and then the controller, under the same load.

    Attributes:
        fixed: Latency with one instance and no controller.
        controlled: Latency with the controller, after the instances had grown.
        instances: Instances that it had grown to.
        grew_after_s: Time from the first answer to the second instance.
        shrank_after_s: Time from the last answer to one instance again; None: it did not within the time allowed.
        trace: The controlled part, point by point.
    """

    fixed: Latency
    controlled: Latency
    instances: int
    grew_after_s: float
    shrank_after_s: float | None
    trace: tuple[TracePoint, ...]


@dataclass(frozen=True, slots=True)
class Rising:
    """Load that rises and falls.

    Attributes:
        batch: Items in a request.
        concurrency: Requests that perf_analyzer keeps under way.
        idle_s: The controller's setting.
        repetitions: One fixed instance and the controller, alternating.
        curve: Fixed instances, at several batches.
    """

    batch: int
    concurrency: int
    idle_s: float
    repetitions: tuple[Repetition, ...]
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class KindStatistics:
    """How often a kind of change was made and how long it took."""

    kind: str
    count: int
    mean_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class MemoryAt:
    """Memory in use at a time when widths and instances were those of the start."""

    changes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Reconfigurations:
    """Many changes under constant load.

    Attributes:
        seed: The seed of the order.
        concurrency: Requests under way at any time.
        kinds: What was changed.
        took_s: Time in all.
        failed_changes: Reasons of changes that failed.
        answered: Requests that were answered.
        failed: Requests that failed.
        failure_examples: Messages of the first few.
        warm_up_changes: Changes before ``start_bytes``; by then tritonserver's allocator has found its level.
        cold_bytes: Memory before the first change.
        start_bytes: Memory after the warm-up, median over several fresh loads, each the median of repeated readings.
        end_bytes: Memory after all changes, freshly loaded in the same configuration.
        noise_bytes: Spread of the medians of the fresh loads behind ``start_bytes``, largest minus smallest.
        fresh_loads: How many fresh loads there were.
        server_bytes: Private memory of tritonserver itself at these three times.
        residue_bytes: What the ledger of orchestrator.planner holds for the changes after the warm-up.
        memory: Memory each time the configuration was that of the start.
    """

    seed: int
    concurrency: int
    kinds: tuple[KindStatistics, ...]
    took_s: float
    failed_changes: tuple[str, ...]
    answered: int
    failed: int
    failure_examples: tuple[str, ...]
    warm_up_changes: int
    cold_bytes: int
    start_bytes: int
    end_bytes: int
    noise_bytes: int
    fresh_loads: int
    server_bytes: tuple[int, int, int]
    residue_bytes: int
    memory: tuple[MemoryAt, ...]


@dataclass(frozen=True, slots=True)
class RefusalSeen:
    """A refusal and for how many of the polled status pages it stood there."""

    kind: str
    model: str
    reason: str
    pages: int


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget that admits only some widths.

    Attributes:
        base_bytes: Memory of Triton without models.
        instance_bytes: Memory of the largest width, measured.
        budget_bytes: Memory that the controller was given.
        peak_bytes: The largest reading.
        readings: How often the independent sampler read.
        sample_s: Mean time between two readings.
        peaks_bytes: The largest reading of each second, in order.
        resident: Models that were ready at each second, by name; every distinct set in the order of appearance.
        pages: Status pages polled.
        refusals: Refusals seen on status pages.
        metric_lines: Series of /metrics that counted refusals, without their values.
        answered: Requests that were answered.
        failed: Requests that failed.
        failure_examples: Messages of the first few.
    """

    base_bytes: int
    instance_bytes: int
    budget_bytes: int
    peak_bytes: int
    readings: int
    sample_s: float
    peaks_bytes: tuple[int, ...]
    resident: tuple[tuple[str, ...], ...]
    pages: int
    refusals: tuple[RefusalSeen, ...]
    metric_lines: tuple[str, ...]
    answered: int
    failed: int
    failure_examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9 under load.

    Attributes:
        victim: Triton, a stub or the daemon.
        detail: What it was doing, or who brought it back.
        back_after_s: Time until Triton ran the plan again and no request failed any more; from the kill, for Triton
            from when the restarted server was ready. None: not within the time allowed.
        since_kill_s: The same time from the kill.
        stubs_left: Stubs alive beyond the plan afterwards; Triton's leftovers of an old version.
    """

    victim: str
    detail: str
    back_after_s: float | None
    since_kill_s: float | None
    stubs_left: int


@dataclass(frozen=True, slots=True)
class Kills:
    """Kills, and the plan that must be there again after each.

    Attributes:
        plan: Instances by model.
        kills: The kills, in order.
        answered: Requests that were answered.
        failed: Requests that failed; some must, while what serves them is dead.
    """

    plan: dict[str, int]
    kills: tuple[Kill, ...]
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What the daemon itself takes.

    Attributes:
        period_s: Time between two steps.
        widths: Widths that were loaded.
        watched_s: How long it was watched.
        requests_per_s: Requests a second that Triton answered meanwhile.
        steps_s: Time of each step seen, without actions.
        cpu_ratio: Share of one core.
        rss_bytes: The largest VmRSS.
        anonymous_bytes: The largest RssAnon, the part that is no file's.
    """

    period_s: float
    widths: int
    watched_s: float
    requests_per_s: float
    steps_s: tuple[float, ...]
    cpu_ratio: float
    rss_bytes: int
    anonymous_bytes: int


@dataclass(frozen=True, kw_only=True)
class Results(ScenarioRun):
    """A run; what a scenario found stands under its name."""

    rising: Rising | None = None
    reconfigurations: Reconfigurations | None = None
    budget: Budget | None = None
    kills: Kills | None = None
    cost: Cost | None = None
