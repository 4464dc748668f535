"""A run with round numbers, of which a test changes what it is about."""

from __future__ import annotations

from benchmarks.controller.results import (
    Budget,
    Cost,
    CurvePoint,
    Kill,
    Kills,
    KindStatistics,
    MemoryAt,
    Reconfigurations,
    RefusalSeen,
    Repetition,
    Results,
    Rising,
    TracePoint,
)
from benchmarks.harness.machine import Machine
from benchmarks.harness.perf_analyzer import Latency

MIB = 2**20


def latency(p99_s: float) -> Latency:
    return Latency(requests_per_s=100.0, queue_s=p99_s / 2, p50_s=p99_s / 2, p99_s=p99_s)


def trace() -> tuple[TracePoint, ...]:
    """Load from 0 to 3 s, a second instance at 2 s, one again at 13 s."""
    return (
        TracePoint(-1.0, 1, 0, 0.0),
        TracePoint(0.0, 1, 0, 0.0),
        TracePoint(1.0, 1, 10, 2.0),
        TracePoint(2.0, 2, 20, 3.0),
        TracePoint(3.0, 2, 40, 4.0),
        TracePoint(12.0, 2, 40, 4.0),
        TracePoint(13.0, 1, 40, 4.0),
    )


def repetition(*, fixed_s: float = 0.12, controlled_s: float = 0.06, shrank_s: float | None = 10.0) -> Repetition:
    return Repetition(
        fixed=latency(fixed_s),
        controlled=latency(controlled_s),
        instances=2,
        grew_after_s=2.0,
        shrank_after_s=shrank_s,
        trace=trace(),
    )


def rising(*repetitions: Repetition) -> Rising:
    curve = (CurvePoint(64, 1, latency(0.12)), CurvePoint(64, 2, latency(0.06)))
    return Rising(64, 8, 10.0, repetitions or (repetition(),), curve)


def reconfigurations(*, failed: int = 0, end_bytes: int = 203 * MIB, residue_bytes: int = 2 * MIB) -> Reconfigurations:
    return Reconfigurations(
        seed=3,
        concurrency=8,
        kinds=(KindStatistics("scale up", 150, 0.2, 1.0), KindStatistics("scale down", 150, 1.0, 2.0)),
        took_s=300.0,
        failed_changes=(),
        answered=100_000,
        failed=failed,
        failure_examples=(),
        warm_up_changes=60,
        cold_bytes=190 * MIB,
        start_bytes=200 * MIB,
        end_bytes=end_bytes,
        noise_bytes=2 * MIB,
        fresh_loads=6,
        server_bytes=(9 * MIB, 10 * MIB, 11 * MIB),
        residue_bytes=residue_bytes,
        memory=(MemoryAt(10, 201 * MIB),),
    )


def budget(*, peak_bytes: int = 110 * MIB, refusals: tuple[RefusalSeen, ...] | None = None) -> Budget:
    return Budget(
        base_bytes=4 * MIB,
        instance_bytes=50 * MIB,
        budget_bytes=134 * MIB,
        peak_bytes=peak_bytes,
        readings=1200,
        sample_s=0.05,
        peaks_bytes=(100 * MIB, 110 * MIB),
        resident=(("a_w025", "a_w050"), ()),
        pages=120,
        refusals=(RefusalSeen("load", "a_w075", "memory-budget", 118),) if refusals is None else refusals,
        metric_lines=('slim_controller_refusals{reason="memory-budget"}',),
        answered=1000,
        failed=0,
        failure_examples=(),
    )


def kills(*back_after_s: float | None) -> Kills:
    each = back_after_s or (1.0,)
    return Kills({"a_w025": 1}, tuple(Kill("a stub", "", time_s, time_s, 0) for time_s in each), 1000, 10)


def cost(*, steps_s: tuple[float, ...] = (0.01, 0.02)) -> Cost:
    return Cost(1.0, 4, 60.0, 30.0, steps_s, cpu_ratio=0.01, rss_bytes=80_000_000, anonymous_bytes=40_000_000)


def results(**scenarios: object) -> Results:
    machine = Machine("a processor", 2, 24 * 2**30, "Linux 6", 0.1)
    return Results(
        taken_at="2026-01-01T00:00:00+00:00",
        took_s=600.0,
        machine=machine,
        versions={"python": "3.11"},
        **scenarios,
    )


def full() -> Results:
    return results(rising=rising(), reconfigurations=reconfigurations(), budget=budget(), kills=kills(), cost=cost())
