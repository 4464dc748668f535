"""The page of a run: the claims, then each scenario with what was measured and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, median, quantiles

from benchmarks.controller.claims import draw_claims, p99_ratio
from benchmarks.controller.results import Budget, Cost, CurvePoint, Kills, Reconfigurations, Results, Rising
from benchmarks.harness.perf_analyzer import Latency
from benchmarks.harness.run import page_head
from orchestrator.reporting.blocks import Block, Bullets, Code, Heading, Picture, Table, Text

MIB = 2**20
MB = 1e6


def make_page(results: Results, picture: str | None) -> Iterator[Block]:
    """Yield the page of a run; ``picture`` is the name of a file beside it, None when there is none."""
    prose = (
        "This page is written by `make bench-controller`; the raw numbers lie beside it in "
        "[controller.json](controller.json). One real tritonserver (the embedded one, nothing slowed down, nothing "
        "pinned) serves the four widths of `model_repository`; client, server and daemon share the machine's "
        f"{results.machine.cpus} cores. The daemon is the process `slimsched controller`. Whatever is said of Triton "
        "was read from Triton and its processes, not from the daemon."
    )
    yield from page_head("The controller on a real Triton", prose, results, draw_claims(results))
    if picture is not None:
        yield Picture(file=picture, text="Instances, queue and memory over time")
    if results.rising is not None:
        yield from _rising(results.rising)
    if results.reconfigurations is not None:
        yield from _reconfigurations(results.reconfigurations)
    if results.budget is not None:
        yield from _budget(results.budget)
    if results.kills is not None:
        yield from _kills(results.kills)
    if results.cost is not None:
        yield from _cost(results.cost)


def _rising(run: Rising) -> Iterator[Block]:
    yield Heading(2, "Rising and falling load")
    yield Text(
        f"`perf_analyzer -i grpc -b {run.batch} --concurrency-range {run.concurrency}` on the widest width. One fixed "
        "instance without a controller, then the controller, alternating. The load runs until a second instance "
        "serves; a fresh perf_analyzer then measures the p99. The beginning and the end of the load are taken from "
        "Triton's own count of answers, ten times a second; instances from its model config. "
        f"Over the repetitions the ratio of the median p99s is {p99_ratio(run):.2f}. An instance goes once it has not "
        f"been missed for idle_s, {run.idle_s:g} s here; the step that sees it comes up to a period later, and Triton "
        "2.51 takes a second or so to end a stub: hence a bar beyond idle_s."
    )
    yield Table(
        (
            "repetition",
            "p99, one instance",
            "p99, controller",
            "instances",
            "second instance after",
            "back at one after",
        ),
        [
            (
                str(number),
                _ms(r.fixed.p99_s),
                _ms(r.controlled.p99_s),
                str(r.instances),
                f"{r.grew_after_s:.1f} s",
                "never" if r.shrank_after_s is None else f"{r.shrank_after_s:.1f} s",
            )
            for number, r in enumerate(run.repetitions, start=1)
        ],
    )
    yield Text(
        "What a second instance can give on this machine, with fixed instances and no controller. Client and server "
        "share the cores with the instances. Much of a request of one image is their work, which a second instance "
        "does not take over and competes with; the more a request computes, the more there is for it to take over."
    )
    yield Table(
        ("batch", "instances", "requests/s", "mean wait", "p50", "p99", "p99 over one instance"),
        [_curve_row(point, run.curve) for point in run.curve],
    )


def _curve_row(point: CurvePoint, curve: Sequence[CurvePoint]) -> tuple[str, ...]:
    one = next((p.latency for p in curve if p.batch == point.batch and p.instances == 1), None)
    ratio = "" if one is None or point.instances == 1 else f"{point.latency.p99_s / one.p99_s:.2f}"
    return (str(point.batch), str(point.instances), *_latency(point.latency), ratio)


def _latency(latency: Latency) -> tuple[str, ...]:
    return f"{latency.requests_per_s:,.0f}", _ms(latency.queue_s), _ms(latency.p50_s), _ms(latency.p99_s)


def _reconfigurations(run: Reconfigurations) -> Iterator[Block]:
    made = sum(kind.count for kind in run.kinds)
    yield Heading(2, f"{made} reconfigurations under constant load")
    yield Text(
        f"{run.concurrency} closed loops keep {run.concurrency} requests under way to the two narrowest widths, which "
        f"are scaled between one and three instances and reloaded; the two widest are loaded and unloaded. The order "
        f"is random with seed {run.seed}. {run.answered:,} requests were answered and {run.failed} failed in "
        f"{run.took_s:.0f} s; {len(run.failed_changes)} changes failed."
    )
    yield Table(
        ("kind", "changes", "mean", "longest"),
        [(k.kind, str(k.count), f"{k.mean_s:.2f} s", f"{k.max_s:.2f} s") for k in run.kinds],
    )
    growth_bytes = run.end_bytes - run.start_bytes
    cold, start, end = (f"{each / MIB:.1f}" for each in run.server_bytes)
    yield Text(
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
        yield Text(f"Whenever widths and instances were those of the start, MiB (after so many changes): {readings}.")
    yield from _examples("Changes that failed", run.failed_changes[:5])
    yield from _examples("Requests that failed", run.failure_examples)


def _budget(run: Budget) -> Iterator[Block]:
    yield Heading(2, "A budget that admits only some widths")
    yield Text(
        f"Triton alone takes {_mib(run.base_bytes)}, the largest width {_mib(run.instance_bytes)} more, both measured "
        f"just before. The budget is {_mib(run.budget_bytes)}. An independent sampler took {run.readings:,} readings, "
        f"one every {run.sample_s * 1e3:.0f} ms, from before the daemon's start; the largest was "
        f"{_mib(run.peak_bytes)}. {run.answered:,} requests were answered and {run.failed} failed."
    )
    sets = " → ".join(" + ".join(models) or "none" for models in run.resident)
    yield Text(
        f"The full width is demanded after 20 s and the load on the second width ends after 30. Resident: {sets}."
    )
    yield Text(f"Refusals on {run.pages} status pages, polled twice a second:")
    yield Table(
        ("refused", "model", "reason", "pages"), [(r.kind, r.model, r.reason, str(r.pages)) for r in run.refusals]
    )
    yield Text("And in /metrics:")
    yield Code(run.metric_lines)
    yield from _examples("Requests that failed", run.failure_examples)


def _kills(run: Kills) -> Iterator[Block]:
    plan = ", ".join(f"{model} × {instances}" for model, instances in run.plan.items())
    yield Heading(2, "kill -9 under load")
    yield Text(
        f"The plan under load is {plan}. It is there again when Triton runs exactly these instances, at least as "
        f"many stubs live, and no request fails any more for a second. {run.answered:,} requests were answered, "
        f"{run.failed:,} failed, all in all: whoever sends them "
        "needs a second server or a retry while their only one is dead. For Triton the time runs from when the "
        "restarted, empty server is ready. Stubs left over are processes of an old version that Triton 2.51 has not "
        "ended, seen after a stub was killed while it ran a batch."
    )
    yield Table(
        ("killed", "", "back to plan after", "since the kill", "stubs left over"),
        [
            (k.victim, k.detail, _seconds(k.back_after_s), _seconds(k.since_kill_s), str(k.stubs_left))
            for k in run.kills
        ],
    )


def _cost(run: Cost) -> Iterator[Block]:
    steps_s = sorted(run.steps_s)
    p99_s = quantiles(steps_s, n=100, method="inclusive")[-1] if len(steps_s) > 1 else mean(steps_s or [0.0])
    yield Heading(2, "What the daemon itself takes")
    yield Text(
        f"{run.widths} widths, a period of {run.period_s:g} s, {run.requests_per_s:.0f} requests a second, watched for "
        f"{run.watched_s:.0f} s and asked for its status once a second, which is part of the cost. A step, without "
        f"the actions it waits for, took {_ms(median(steps_s) if steps_s else 0.0)} in the median, {_ms(p99_s)} at the "
        f"99th percentile and {_ms(max(steps_s, default=0.0))} at the most. {run.cpu_ratio:.2%} of one core; "
        f"{run.rss_bytes / MB:.1f} MB resident, of which {run.anonymous_bytes / MB:.1f} MB are no file's."
    )


def _examples(title: str, messages: Sequence[str]) -> Iterator[Block]:
    if messages:
        yield Bullets(title, messages)


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else f"{value:.1f} s"


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:.1f} ms"


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / MIB:.1f} MiB"
