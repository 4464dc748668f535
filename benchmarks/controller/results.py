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
        at_s: since the load began; negative before.
        instances: of the loaded width.
        requests: answered since the start of the trace.
        queue_s: waited by them, summed.
    """

    at_s: float
    instances: int
    requests: int
    queue_s: float


@dataclass(frozen=True, slots=True)
class Repetition:
    """One fixed instance and then the controller, under the same load.

    Attributes:
        fixed: with one instance and no controller.
        controlled: with the controller, after the instances had grown.
        instances: that it had grown to.
        grew_after_s: from the first answer to the second instance.
        shrank_after_s: from the last answer to one instance again; None: it did not within the time allowed.
        trace: of the controlled part.
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
        batch: items in a request.
        concurrency: of perf_analyzer.
        idle_s: the controller's setting.
        repetitions: alternating.
        curve: fixed instances, at several batches.
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
        seed: of the order.
        concurrency: requests under way at any time.
        kinds: of changes.
        took_s: in all.
        failed_changes: reasons of changes that failed.
        answered: requests.
        failed: requests.
        failure_examples: messages of the first few.
        warm_up_changes: of all, before ``start_bytes``; by then tritonserver's allocator has found its level.
        cold_bytes: before the first change.
        start_bytes: after the warm-up, median over several fresh loads, each the median of repeated readings.
        end_bytes: after all changes, freshly loaded in the same configuration.
        noise_bytes: spread of the medians of the fresh loads behind ``start_bytes``, largest minus smallest.
        fresh_loads: so many.
        server_bytes: private memory of tritonserver itself at these three times.
        residue_bytes: that the ledger of orchestrator.planner holds for the changes after the warm-up.
        memory: each time the configuration was that of the start.
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
        base_bytes: of Triton without models.
        instance_bytes: of the largest width, measured.
        budget_bytes: given to the controller.
        peak_bytes: largest reading.
        readings: of the independent sampler.
        sample_s: mean time between two readings.
        peaks_bytes: largest reading of each second, in order.
        resident: models that were ready at each second, by name; every distinct set in the order of appearance.
        pages: status pages polled.
        refusals: seen on status pages.
        metric_lines: series of /metrics that told of refusals, without their values.
        answered: requests.
        failed: requests.
        failure_examples: messages of the first few.
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
        victim: triton, stub or daemon.
        detail: what it was doing, or who brought it back.
        back_after_s: until Triton ran the plan again and no request failed any more; from the kill, for Triton from
            when the restarted server was ready. None: not within the time allowed.
        since_kill_s: the same from the kill.
        stubs_left: alive beyond the plan afterwards; Triton's leftovers of an old version.
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
        plan: instances by model.
        kills: in order.
        answered: requests.
        failed: requests; some must, while what serves them is dead.
    """

    plan: dict[str, int]
    kills: tuple[Kill, ...]
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What the daemon itself takes.

    Attributes:
        period_s: between two steps.
        widths: loaded.
        watched_s: for how long.
        requests_per_s: that Triton answered meanwhile.
        steps_s: of each step seen, without actions.
        cpu_ratio: of one core.
        rss_bytes: largest VmRSS.
        anonymous_bytes: largest RssAnon, the part that is no file's.
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
