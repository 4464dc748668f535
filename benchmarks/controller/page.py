"""A run as a page of Markdown: the claims, then each scenario with what was measured and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median, quantiles

from benchmarks.controller.claims import Claim, draw_claims, p99_ratio
from benchmarks.controller.results import (
    Budget,
    Cost,
    CurvePoint,
    Kills,
    Latency,
    Reconfigurations,
    Results,
    Rising,
    encode_results,
)

MIB = 2**20
GIB = 2**30
MB = 1e6


def render_json(results: Results) -> str:
    """Return the run as JSON: claims first, then what it was made on and with, then every raw number."""
    raw = encode_results(results)
    claims = [
        {
            "name": claim.name,
            "value": None if claim.value is None else round(claim.value, 4),
            "unit": claim.unit,
            "bar": round(claim.bar, 4),
            "bar_is": "at least" if claim.is_floor else "at most",
            "met": claim.is_met,
        }
        for claim in draw_claims(results)
    ]
    head = {key: raw[key] for key in ("taken_at", "taken_again", "machine", "versions", "failures")}
    return json.dumps({"claims": claims, **head, "raw": raw}, ensure_ascii=False, separators=(",", ":")) + "\n"


def render_page(results: Results, *, picture: str | None) -> str:
    """Return the page.

    Args:
        results: of a run.
        picture: its file name beside the page; None when there is none.
    """
    claims = draw_claims(results)
    blocks = [*_head(results, claims), *_failures(results)]
    if picture is not None:
        blocks.append(f"![Instances, queue and memory over time]({picture})")
    if results.rising is not None:
        blocks += _rising(results.rising)
    if results.reconfigurations is not None:
        blocks += _reconfigurations(results.reconfigurations)
    if results.budget is not None:
        blocks += _budget(results.budget)
    if results.kills is not None:
        blocks += _kills(results.kills)
    if results.cost is not None:
        blocks += _cost(results.cost)
    return "\n\n".join(blocks) + "\n"


def _head(results: Results, claims: Sequence[Claim]) -> Iterator[str]:
    machine = results.machine
    met = sum(claim.is_met for claim in claims)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(results.versions.items()))
    yield "# The controller on a real Triton"
    yield (
        "This page is written by `make bench-controller`; the raw numbers lie beside it in "
        "[controller.json](controller.json). One real tritonserver (the embedded one, nothing slowed down, nothing "
        "pinned) serves the four widths of `model_repository`; client, server and daemon share the machine's "
        f"{machine.cpus} cores. The daemon is the process `slimsched controller`. Whatever is said of Triton was read "
        "from Triton and its processes, not from the daemon."
    )
    yield (
        f"Taken at {results.taken_at} in {results.took_s / 60:.1f} minutes on {machine.cpu}, {machine.cpus} CPUs, "
        f"{machine.memory_bytes / GIB:.0f} GiB, {machine.kernel}, with a load of {machine.load_before:g} in the minute "
        f"before. {versions}."
    )
    for name, taken_at in results.taken_again.items():
        yield f"`{name}` was taken again, alone, at {taken_at}, because other work disturbed the machine meanwhile."
    yield f"## Claims: {met} of {len(claims)} met"
    rows = ((c.name, _number(c.value), _bar(c), c.unit, "met" if c.is_met else "**not met**") for c in claims)
    yield _table(("claim", "value", "bar", "unit", ""), rows)


def _failures(results: Results) -> Iterator[str]:
    for name, reason in results.failures.items():
        yield f"**{name} has no numbers:** {reason}"


def _rising(run: Rising) -> Iterator[str]:
    yield "## Rising and falling load"
    yield (
        f"`perf_analyzer -i grpc -b {run.batch} --concurrency-range {run.concurrency}` on the widest width. One fixed "
        "instance without a controller, then the controller, alternating. The load runs until a second instance "
        "serves; a fresh perf_analyzer then measures the p99. The beginning and the end of the load are taken from "
        "Triton's own count of answers, ten times a second; instances from its model config. "
        f"Over the repetitions the ratio of the median p99s is {p99_ratio(run):.2f}. An instance goes once it has not "
        f"been missed for idle_s, {run.idle_s:g} s here; the step that sees it comes up to a period later, and Triton "
        "2.51 takes a second or so to end a stub: hence a bar beyond idle_s."
    )
    yield _table(
        (
            "repetition",
            "p99, one instance",
            "p99, controller",
            "instances",
            "second instance after",
            "back at one after",
        ),
        (
            (
                str(number),
                _ms(r.fixed.p99_s),
                _ms(r.controlled.p99_s),
                str(r.instances),
                f"{r.grew_after_s:.1f} s",
                "never" if r.shrank_after_s is None else f"{r.shrank_after_s:.1f} s",
            )
            for number, r in enumerate(run.repetitions, start=1)
        ),
    )
    yield (
        "What a second instance can give on this machine, with fixed instances and no controller. Client and server "
        "share the cores with the instances. Much of a request of one image is their work, which a second instance "
        "does not take over and competes with; the more a request computes, the more there is for it to take over."
    )
    yield _table(
        ("batch", "instances", "requests/s", "mean wait", "p50", "p99", "p99 over one instance"),
        (_curve_row(point, run.curve) for point in run.curve),
    )


def _curve_row(point: CurvePoint, curve: Sequence[CurvePoint]) -> tuple[str, ...]:
    one = next((p.latency for p in curve if p.batch == point.batch and p.instances == 1), None)
    ratio = "" if one is None or point.instances == 1 else f"{point.latency.p99_s / one.p99_s:.2f}"
    return (str(point.batch), str(point.instances), *_latency(point.latency), ratio)


def _latency(latency: Latency) -> tuple[str, ...]:
    return f"{latency.requests_per_s:,.0f}", _ms(latency.queue_s), _ms(latency.p50_s), _ms(latency.p99_s)


def _reconfigurations(run: Reconfigurations) -> Iterator[str]:
    made = sum(kind.count for kind in run.kinds)
    yield f"## {made} reconfigurations under constant load"
    yield (
        f"{run.concurrency} closed loops keep {run.concurrency} requests under way to the two narrowest widths, which "
        f"are scaled between one and three instances and reloaded; the two widest are loaded and unloaded. The order "
        f"is random with seed {run.seed}. {run.answered:,} requests were answered and {run.failed} failed in "
        f"{run.took_s:.0f} s; {len(run.failed_changes)} changes failed."
    )
    yield _table(
        ("kind", "changes", "mean", "longest"),
        ((k.kind, str(k.count), f"{k.mean_s:.2f} s", f"{k.max_s:.2f} s") for k in run.kinds),
    )
    growth_bytes = run.end_bytes - run.start_bytes
    cold, start, end = (f"{each / MIB:.1f}" for each in run.server_bytes)
    yield (
        f"Memory, freshly loaded in the same configuration each time, was {_mib(run.cold_bytes)} before the first "
        f"change, {_mib(run.start_bytes)} after {run.warm_up_changes} and {_mib(run.end_bytes)} after {made}; of that "
        f"tritonserver itself had {cold}, {start} and {end} MiB. Its allocator (glibc's, an arena a thread) grows to a "
        f"level within the first changes, which is no leak, so growth is judged from change {run.warm_up_changes} on: "
        f"{growth_bytes / MIB:+.1f} MiB. The ledger, fed with a settled reading before and after each of these "
        f"changes and with what the server holds beside its instances, which on CPU is its measure of what was not "
        f"given back, holds a residue of {_mib(run.residue_bytes)}. Each reload brings new processes, and no two "
        f"take the same: {run.fresh_loads} fresh loads in a row spread by {_mib(run.noise_bytes)}, which is the "
        "tolerance."
    )
    if run.memory:
        readings = ", ".join(f"{point.used_bytes / MIB:.1f} ({point.changes})" for point in run.memory)
        yield f"Whenever widths and instances were those of the start, MiB (after so many changes): {readings}."
    yield from _examples("Changes that failed", run.failed_changes[:5])
    yield from _examples("Requests that failed", run.failure_examples)


def _budget(run: Budget) -> Iterator[str]:
    yield "## A budget that admits only some widths"
    yield (
        f"Triton alone takes {_mib(run.base_bytes)}, the largest width {_mib(run.instance_bytes)} more, both measured "
        f"just before. The budget is {_mib(run.budget_bytes)}. An independent sampler took {run.readings:,} readings, "
        f"one every {run.sample_s * 1e3:.0f} ms, from before the daemon's start; the largest was "
        f"{_mib(run.peak_bytes)}. {run.answered:,} requests were answered and {run.failed} failed."
    )
    sets = " → ".join(" + ".join(models) or "none" for models in run.resident)
    yield f"The full width is demanded after 20 s and the load on the second width ends after 30. Resident: {sets}."
    yield f"Refusals on {run.pages} status pages, polled twice a second:"
    yield _table(
        ("refused", "model", "reason", "pages"), ((r.kind, r.model, r.reason, str(r.pages)) for r in run.refusals)
    )
    yield "And in /metrics:"
    yield "\n".join(("```", *run.metric_lines, "```"))
    yield from _examples("Requests that failed", run.failure_examples)


def _kills(run: Kills) -> Iterator[str]:
    plan = ", ".join(f"{model} × {instances}" for model, instances in run.plan.items())
    yield "## kill -9 under load"
    yield (
        f"The plan under load is {plan}. It is there again when Triton runs exactly these instances, at least as "
        f"many stubs live, and no request fails any more for a second. {run.answered:,} requests were answered, "
        f"{run.failed:,} failed, all in all: whoever sends them "
        "needs a second server or a retry while their only one is dead. For Triton the time runs from when the "
        "restarted, empty server is ready. Stubs left over are processes of an old version that Triton 2.51 has not "
        "ended, seen after a stub was killed while it ran a batch."
    )
    yield _table(
        ("killed", "", "back to plan after", "since the kill", "stubs left over"),
        (
            (k.victim, k.detail, _seconds(k.back_after_s), _seconds(k.since_kill_s), str(k.stubs_left))
            for k in run.kills
        ),
    )


def _cost(run: Cost) -> Iterator[str]:
    steps_s = sorted(run.steps_s)
    p99_s = quantiles(steps_s, n=100, method="inclusive")[-1] if len(steps_s) > 1 else mean(steps_s or [0.0])
    yield "## What the daemon itself takes"
    yield (
        f"{run.widths} widths, a period of {run.period_s:g} s, {run.requests_per_s:.0f} requests a second, watched for "
        f"{run.watched_s:.0f} s and asked for its status once a second, which is part of the cost. A step, without "
        f"the actions it waits for, took {_ms(median(steps_s) if steps_s else 0.0)} in the median, {_ms(p99_s)} at the "
        f"99th percentile and {_ms(max(steps_s, default=0.0))} at the most. {run.cpu_ratio:.2%} of one core; "
        f"{run.rss_bytes / MB:.1f} MB resident, of which {run.anonymous_bytes / MB:.1f} MB are no file's."
    )


def _examples(title: str, messages: Sequence[str]) -> Iterator[str]:
    if messages:
        yield "\n".join((f"{title}:", "", *(f"- {message}" for message in messages)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join((line(head), "|" + "---|" * len(head), *map(line, rows)))


def _bar(claim: Claim) -> str:
    return f"{'≥' if claim.is_floor else '≤'} {_number(claim.bar)}"


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else f"{value:.1f} s"


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:.1f} ms"


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / MIB:.1f} MiB"
