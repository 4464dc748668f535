"""The page of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from benchmarks.harness.run import page_head
from benchmarks.resilience.claims import BLOCK_S, SETTLED_S, draw_claims, memory_slopes, requests_per_s
from benchmarks.resilience.results import Burst, Outage, Results, Soak
from orchestrator.reporting.blocks import Block, Bullets, Heading, Picture, Table, Text

MIB = 2**20
_PROSE = """\
This page is written by `make bench-resilience`; the raw numbers lie beside it in [resilience.json](resilience.json). \
Two real tritonservers (embedded, slowed down by emulation so that they are what is scarce) stand behind the process \
`slimsched gateway` with its default settings. Requests come from processes of `tritonclient` that retry nothing, and \
all share the machine's cores."""


def make_page(results: Results, picture: str | None) -> Iterator[Block]:
    """Yield the page of a run; ``picture`` is the name of a file beside it, None when there is none."""
    yield from page_head("The gateway when things go wrong", _PROSE, results, draw_claims(results))
    if picture is not None:
        yield Picture(file=picture, text="Answers by width, refusals, losses and latency over time")
    if results.outages:
        yield from _outages(tuple(results.outages.values()))
    if results.burst is not None:
        yield from _burst(results.burst)
    if results.soak is not None:
        yield from _soak(results.soak)


def _outages(outages: Sequence[Outage]) -> Iterator[Block]:
    some = outages[0]
    yield Heading(2, "One of two Tritons fails")
    yield Text(
        f"{some.rps:g} requests a second, half of them unary calls and half over one stream, each with a deadline of "
        f"{some.deadline_s:g} s. *Lost* is every request that was not answered within its deadline, counted from when "
        "it was due, whatever the reason; requests that were with the failing server when it failed are no exception. "
        "*Twice* is every request for which more than one answer came, which a stream would show by the id. Scores are "
        "compared with what ONNX Runtime computes at the width that the answer names. The last answer of the failing "
        "server and its first one when repaired are counted from when the fault and the repair began and ended."
    )
    yield Table(
        (
            *("fault", "sent", "lost", "twice", "wrong", "sent again", "longest", "p99 before", "p99 from then on"),
            *("accuracy before", "meanwhile", "last answer of it after", "answers again after"),
        ),
        [
            (
                o.name,
                f"{o.sent:,}",
                _lost(o),
                str(o.twice),
                str(o.wrong),
                "" if o.retries is None else str(o.retries),
                _ms(o.worst_s),
                _ms(o.p99_before_s),
                _ms(o.p99_after_s),
                f"{o.accuracy_before:.4f}",
                f"{o.accuracy_during:.4f}",
                "at once" if o.noticed_after_s is None else f"{o.noticed_after_s:.2f} s",
                "never" if o.back_after_s is None else f"{o.back_after_s:.2f} s",
            )
            for o in outages
        ],
    )
    yield Bullets("", [f"**{o.name}**: {o.detail}." for o in outages])
    late_s = max(o.sender_late_s for o in outages)
    yield Text(f"The client itself sent no request more than {_ms(late_s)} after it was due; that counts as latency.")
    for outage in outages:
        if outage.lost:
            yield Bullets(f"Lost with {outage.name}", outage.examples)


def _burst(burst: Burst) -> Iterator[Block]:
    yield Heading(2, "Five times what can be answered")
    yield Text(
        f"Requests of {burst.items} images with a deadline of {burst.deadline_s:g} s. Kept busy, the fleet answers "
        f"{burst.wide_rps:.0f} of them a second at full width and {burst.narrow_rps:.0f} at the narrowest, measured "
        f"just before. *Pressed* is more than the former and less than the latter, the burst five times the latter. "
        f"The gateway held {_mib(burst.rss_bytes[0])} before, {_mib(burst.rss_bytes[1])} at the most by the end of the "
        f"first burst, {_mib(burst.rss_bytes[2])} in the second, {_mib(burst.rss_bytes[3])} afterwards, as glibc keeps "
        f"what was freed. It used {burst.gateway_cpu_ratio:.2f} of a core during the bursts. The client was up to "
        f"{_ms(burst.sender_late_s)} late with a request, which counts as latency."
    )
    yield Table(
        (
            *("", "requests/s", "sent", "in time", "late", "told at the deadline", "refused", "failed"),
            *("at the narrowest", "accuracy", "longest answer", "longest refusal"),
        ),
        [
            (
                p.name,
                f"{p.rps:.0f}",
                f"{p.sent:,}",
                f"{p.in_time:,}",
                str(p.late),
                str(p.overdue),
                f"{p.refused:,}",
                str(p.failed),
                "" if p.narrowest_ratio is None else f"{p.narrowest_ratio:.0%}",
                "" if p.accuracy is None else f"{p.accuracy:.4f}",
                _ms(p.worst_answer_s),
                "" if p.worst_refusal_s is None else _ms(p.worst_refusal_s),
            )
            for p in burst.phases
        ],
    )
    if burst.narrowed_at_s is not None:
        first = (
            "none was refused" if burst.refused_at_s is None else f"the first refusal came at {burst.refused_at_s:.2f}"
        )
        yield Text(
            f"The first answer below full width came {burst.narrowed_at_s:.2f} s after the beginning; {first} s."
        )


def _soak(soak: Soak) -> Iterator[Block]:
    slopes = memory_slopes(soak)
    yield Heading(2, f"{soak.took_s / 60:.0f} minutes of mixed load")
    yield Text(
        f"A supervisor and two workers, {requests_per_s(soak):.0f} inference requests a second of all kinds below. "
        f"Memory is RssAnon, fitted with a straight line from second {min(SETTLED_S, soak.took_s / 2):.0f} on; "
        f"readings are averaged over {min(BLOCK_S, soak.took_s / 20):.0f} s, because an allocator's steps are no "
        "independent errors. Descriptors, threads and tasks are those at rest, before and after the load. How quickly "
        "anything was is no part of these claims, so other work may run beside."
    )
    kib = {p.name: p.rss_kib for p in soak.processes}
    yield Table(
        ("process", "mean MiB", "slope, KiB/min", "95 % interval", "descriptors", "threads"),
        [
            (
                name,
                f"{mean(kib[name]) / 1024:.1f}",
                f"{slope.per_s * 60 / 1024:+.2f}",
                f"{slope.low_per_s * 60 / 1024:+.2f} to {slope.high_per_s * 60 / 1024:+.2f}",
                f"{soak.before.descriptors[name]} → {soak.after.descriptors[name]}",
                f"{soak.before.threads[name]} → {soak.after.threads[name]}",
            )
            for name, slope in slopes.items()
        ],
    )
    most = max((count for _, count in soak.tasks), default=0)
    yield Text(
        f"Tasks of asyncio in both workers: {soak.before.tasks} before, {most} at the most, {soak.after.tasks} after. "
        f"{soak.unexpected} requests ended otherwise than their kind may."
    )
    yield Table(
        ("client", "ended with", "left out by the client"),
        [
            (
                name,
                ", ".join(f"{word} {count:,}" for word, count in sorted(found.items())),
                str(soak.skipped.get(name, 0)),
            )
            for name, found in sorted(soak.ended.items())
        ],
    )
    if soak.examples:
        yield Bullets("Unexpected ends", soak.examples)


def _lost(outage: Outage) -> str:
    if not outage.lost:
        return "0"
    return ", ".join(f"{count} {reason}" for reason, count in sorted(outage.lost.items()))


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:.0f} ms"


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / MIB:.0f} MiB"
