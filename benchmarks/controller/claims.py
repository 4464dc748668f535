"""Raw numbers held against the bars that the controller promises to keep."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.controller.results import Budget, Cost, Kills, Reconfigurations, Results, Rising
from orchestrator.reporting.claim import Claim

MIB = 2**20
MB = 1e6
GROW_BAR_S = 5.0
SHRINK_SLACK_S = 3.0
"""Beyond ``idle_s``: load is smoothed over a second, a step may be a period late, and the change itself takes time."""
P99_RATIO_BAR = 0.7
BACK_BAR_S = 15.0
STEP_BAR_MS = 50.0
CPU_BAR_PERCENT = 2.0
MEMORY_BAR_MB = 120.0


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return the claims of the scenarios that have numbers, in the order of the page."""
    claims: list[Claim] = []
    if results.rising is not None:
        claims += _rising(results.rising)
    if results.reconfigurations is not None:
        claims += _reconfigurations(results.reconfigurations)
    if results.budget is not None:
        claims += _budget(results.budget)
    if results.kills is not None:
        claims += _kills(results.kills)
    if results.cost is not None:
        claims += _cost(results.cost)
    return tuple(claims)


def p99_ratio(rising: Rising) -> float:
    """Return the median p99 with the controller over the median p99 of one fixed instance."""
    controlled = median(r.controlled.p99_s for r in rising.repetitions)
    return controlled / median(r.fixed.p99_s for r in rising.repetitions)


def memory_tolerance_bytes(run: Reconfigurations) -> int:
    """Return by how much memory may have grown beyond the ledger and still be called not grown.

    Start and end are read off different processes: each reload brings new stubs, and no two of them take the same. How
    much loads of one configuration differ is measured at the start, and the end is one such load more.
    """
    return run.noise_bytes


def _rising(rising: Rising) -> Iterator[Claim]:
    shrank = [r.shrank_after_s for r in rising.repetitions]
    known = [s for s in shrank if s is not None]
    grew_s = max(r.grew_after_s for r in rising.repetitions)
    yield Claim("a second instance serves after load has begun, slowest repetition", grew_s, "s", GROW_BAR_S)
    yield Claim(
        f"back at one instance after load has ended (idle_s {rising.idle_s:g}), slowest repetition",
        max(known) if len(known) == len(shrank) else None,
        "s",
        rising.idle_s + SHRINK_SLACK_S,
    )
    yield Claim(
        "p99 at the plateau over that of one fixed instance, medians", p99_ratio(rising), "ratio", P99_RATIO_BAR
    )


def _reconfigurations(run: Reconfigurations) -> Iterator[Claim]:
    made = sum(kind.count for kind in run.kinds)
    yield Claim("reconfigurations under constant load", made - len(run.failed_changes), "", 300, is_floor=True)
    yield Claim("requests that failed meanwhile", run.failed, "", 0)
    growth_bytes = run.end_bytes - run.start_bytes
    bar_bytes = run.residue_bytes + memory_tolerance_bytes(run)
    yield Claim(
        "memory grown, against the ledger's residue and the spread of fresh loads",
        growth_bytes / MIB,
        "MiB",
        bar_bytes / MIB,
    )


def _budget(run: Budget) -> Iterator[Claim]:
    over_bytes = run.peak_bytes - run.budget_bytes
    yield Claim("memory over the budget, largest of all readings", over_bytes / MIB, "MiB", 0)
    by_memory = [r for r in run.refusals if r.reason == "memory-budget"]
    yield Claim("refusals for memory seen in /status", len(by_memory), "", 1, is_floor=True)
    yield Claim("refusals for memory seen in /metrics", len(run.metric_lines), "", 1, is_floor=True)
    yield Claim("requests to resident widths that failed", run.failed, "", 0)


def _kills(run: Kills) -> Iterator[Claim]:
    for victim in dict.fromkeys(kill.victim for kill in run.kills):
        times = [kill.back_after_s for kill in run.kills if kill.victim == victim]
        known = [time_s for time_s in times if time_s is not None]
        slowest_s = max(known) if len(known) == len(times) else None
        yield Claim(f"back to plan after kill -9 of {victim}, slowest of {len(times)}", slowest_s, "s", BACK_BAR_S)


def _cost(cost: Cost) -> Iterator[Claim]:
    slowest_s = max(cost.steps_s) if cost.steps_s else None
    step_ms = None if slowest_s is None else slowest_s * 1e3
    yield Claim(f"a step with {cost.widths} widths, slowest", step_ms, "ms", STEP_BAR_MS)
    yield Claim(
        f"the daemon at a period of {cost.period_s:g} s, of one core", cost.cpu_ratio * 100, "%", CPU_BAR_PERCENT
    )
    yield Claim("memory of the daemon, resident", cost.rss_bytes / MB, "MB", MEMORY_BAR_MB)
