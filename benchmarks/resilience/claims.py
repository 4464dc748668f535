"""Raw numbers held against what the gateway promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.resilience.results import Burst, Outage, Results, Soak
from benchmarks.resilience.scenarios.burst import BURSTS
from benchmarks.resilience.scenarios.soak import SUPERVISOR
from benchmarks.resilience.slope import Slope, fit_slope
from orchestrator.reporting.claim import Claim

MIB = 2**20
SETTLED_S = 300.0
"""From when on memory is judged: caches, pools and arenas have filled."""
BLOCK_S = 60.0
LEAK_BAR_BYTES = 16.0
"""A request; the smallest object of Python takes as much, so that not even one of these may stay behind."""
MEMORY_BAR_MIB = 256.0
"""Above rest, in a burst; half of what ``overload.queue_limit_mib`` lets wait."""
AGAIN_BAR_MIB = 32.0
"""A burst that leaves something behind leaves it each time; an eighth of what one may take is the allocator's."""
AWAY = ("death", "hang", "full-queue")
"""Faults with which a server can't be reached."""
BACK_BAR_S = 1.0
NARROW_BAR_RATIO = 0.95
GOODPUT_BAR_RATIO = 0.8


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return the claims of the scenarios that have numbers, in the order of the page."""
    claims: list[Claim] = []
    for outage in results.outages.values():
        claims += _outage(outage)
    if results.burst is not None:
        claims += _burst(results.burst)
    if results.soak is not None:
        claims += _soak(results.soak)
    return tuple(claims)


def memory_slopes(soak: Soak) -> Mapping[str, Slope]:
    """Return how quickly the memory of each process grows, in bytes a second, from ``SETTLED_S`` on.

    A load shorter than twice that is judged from its middle on.
    """
    from_s = min(SETTLED_S, soak.took_s / 2)
    slopes = {}
    for process in soak.processes:
        found = [
            (at_s, kib * 1024.0) for at_s, kib in zip(process.at_s, process.rss_kib, strict=True) if at_s >= from_s
        ]
        block_s = min(BLOCK_S, soak.took_s / 20)
        slopes[process.name] = fit_slope([at for at, _ in found], [used for _, used in found], block_s=block_s)
    return slopes


def requests_per_s(soak: Soak) -> float:
    """Return how many inference requests a second the gateway counted."""
    return (soak.after.requests - soak.before.requests) / soak.took_s


def _outage(outage: Outage) -> Iterator[Claim]:
    name = outage.name
    yield Claim(f"{name}: requests lost, deadline {outage.deadline_s:g} s", sum(outage.lost.values()), "", 0)
    yield Claim(f"{name}: requests answered twice", outage.twice, "", 0)
    yield Claim(f"{name}: requests ended in the gateway's count beyond those sent", abs(outage.counted), "", 0)
    if name in AWAY:
        yield Claim(f"{name}: its first answer after it is ready again", outage.back_after_s, "s", BACK_BAR_S)
    if name != "wrong-answers":
        yield Claim(f"{name}: wrong answers", outage.wrong, "", 0)
    else:
        last_s = 0.0 if outage.last_wrong_s is None else outage.last_wrong_s
        yield Claim(f"{name}: the last wrong answer after the fault", last_s, "s", 11.0)


def _burst(burst: Burst) -> Iterator[Claim]:
    phases = {phase.name: phase for phase in burst.phases}
    refusals_s = [phase.worst_refusal_s for phase in burst.phases if phase.worst_refusal_s is not None]
    yield Claim("burst: the longest wait for a refusal", max(refusals_s, default=None), "s", burst.deadline_s)
    pressed, bursts = phases["pressed"], [phases[name] for name in BURSTS]
    dropped = pressed.refused + pressed.failed + pressed.late + pressed.overdue
    yield Claim("burst: not answered in time while a narrower width could", dropped, "", 0)
    yield Claim(
        "burst: answers at the narrowest width while others are refused",
        min((b.narrowest_ratio for b in bursts if b.narrowest_ratio is not None), default=None),
        "ratio",
        NARROW_BAR_RATIO,
        is_floor=True,
    )
    rate = min(b.in_time / (b.until_s - b.from_s) for b in bursts)
    yield Claim(
        "burst: answers in time, of what the fleet can answer",
        rate / burst.narrow_rps,
        "ratio",
        GOODPUT_BAR_RATIO,
        is_floor=True,
    )
    yield Claim("burst: errors that are no refusal", sum(p.failed for p in burst.phases), "", 0)
    yield Claim("burst: answered twice", sum(p.twice for p in burst.phases), "", 0)
    late = sum(phase.late + phase.overdue for phase in burst.phases)
    yield Claim("burst: sent to a server and not answered by their deadline", late, "", 0)
    at_rest, first, second, _ = burst.rss_bytes
    most = max(first, second)
    yield Claim("burst: memory of the gateway above rest, at the most", (most - at_rest) / MIB, "MiB", MEMORY_BAR_MIB)
    yield Claim("burst: memory that a second one takes beyond the first", (second - first) / MIB, "MiB", AGAIN_BAR_MIB)


def _soak(soak: Soak) -> Iterator[Claim]:
    slopes, rate = memory_slopes(soak), requests_per_s(soak)
    workers = sum(name != SUPERVISOR for name in slopes)
    minutes = soak.took_s / 60
    yield Claim("soak: minutes of mixed load", minutes, "min", 30, is_floor=True)
    for name, slope in slopes.items():
        yield Claim(
            f"soak: {name}, memory grown a request of its own, upper end of the 95 % interval",
            slope.high_per_s / (rate if name == SUPERVISOR else rate / workers),
            "bytes",
            LEAK_BAR_BYTES,
        )
    for what, before, after in (
        ("descriptors", soak.before.descriptors, soak.after.descriptors),
        ("threads", soak.before.threads, soak.after.threads),
    ):
        worst = max(after[name] - before[name] for name in before)
        yield Claim(f"soak: {what} more at rest after than before, of any process", worst, "", 0)
    yield Claim("soak: asyncio tasks more at rest after than before", soak.after.tasks - soak.before.tasks, "", 0)
    yield Claim("soak: requests in flight at rest", soak.after.in_flight, "", 0)
    yield Claim("soak: requests that ended otherwise than they may", soak.unexpected, "", 0)
