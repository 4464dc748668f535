"""A run as a page of Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean

from benchmarks.controller.claims import Claim
from benchmarks.resilience.claims import BLOCK_S, SETTLED_S, draw_claims, memory_slopes, requests_per_s
from benchmarks.resilience.results import Burst, Outage, Results, Soak, encode_results

MIB, GIB = 2**20, 2**30


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
    blocks = [*_head(results), *(f"**{name} has no numbers:** {why}" for name, why in results.failures.items())]
    if picture is not None:
        blocks.append(f"![Answers by width, refusals, losses and latency over time]({picture})")
    if results.outages:
        blocks += _outages(tuple(results.outages.values()))
    if results.burst is not None:
        blocks += _burst(results.burst)
    if results.soak is not None:
        blocks += _soak(results.soak)
    return "\n\n".join(blocks) + "\n"


def _head(results: Results) -> Iterator[str]:
    claims = draw_claims(results)
    machine = results.machine
    met = sum(claim.is_met for claim in claims)
    versions = ", ".join(f"{name} {number}" for name, number in sorted(results.versions.items()))
    yield "# The gateway when things go wrong"
    yield (
        "This page is written by `make bench-resilience`; the raw numbers lie beside it in "
        "[resilience.json](resilience.json). Two real tritonservers (embedded, slowed down by emulation so that they "
        "are what is scarce) stand behind the process `slimsched gateway` with its default settings. Requests come "
        "from processes of `tritonclient` that retry nothing, and all share the machine's cores."
    )
    yield (
        f"Taken at {results.taken_at} on {machine.cpu}, {machine.cpus} CPUs, {machine.memory_bytes / GIB:.0f} GiB, "
        f"{machine.kernel}, with a load of {machine.load_before:g} in the minute before. {versions}."
    )
    if results.taken_again:
        taken = ", ".join(f"`{name}` at {at}" for name, at in results.taken_again.items())
        yield f"Taken in runs of their own: {taken}."
    yield f"## Claims: {met} of {len(claims)} met"
    rows = ((c.name, _number(c.value), _bar(c), c.unit, "met" if c.is_met else "**not met**") for c in claims)
    yield _table(("claim", "value", "bar", "unit", ""), rows)


def _outages(outages: Sequence[Outage]) -> Iterator[str]:
    some = outages[0]
    yield "## One of two Tritons fails"
    yield (
        f"{some.rps:g} requests a second, half of them unary calls and half over one stream, each with a deadline of "
        f"{some.deadline_s:g} s. *Lost* is every request that was not answered within its deadline, counted from when "
        "it was due, whatever the reason; requests that were with the failing server when it failed are no exception. "
        "*Twice* is every request for which more than one answer came, which a stream would show by the id. Scores are "
        "compared with what ONNX Runtime computes at the width that the answer names. The last answer of the failing "
        "server and its first one when mended are counted from when the fault and the mending began and ended."
    )
    yield _table(
        (
            *("fault", "sent", "lost", "twice", "wrong", "sent again", "longest", "p99 before", "p99 from then on"),
            *("accuracy before", "meanwhile", "last answer of it after", "answers again after"),
        ),
        (
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
        ),
    )
    yield "\n".join(f"- **{o.name}**: {o.detail}." for o in outages)
    late_s = max(o.sender_late_s for o in outages)
    yield f"The client itself sent no request more than {_ms(late_s)} after it was due; that counts as latency."
    for outage in outages:
        if outage.lost:
            yield "\n".join((f"Lost with {outage.name}:", "", *(f"- {text}" for text in outage.examples)))


def _burst(burst: Burst) -> Iterator[str]:
    yield "## Five times what can be answered"
    yield (
        f"Requests of {burst.items} images with a deadline of {burst.deadline_s:g} s. Kept busy, the fleet answers "
        f"{burst.wide_rps:.0f} of them a second at full width and {burst.narrow_rps:.0f} at the narrowest, measured "
        f"just before. *Pressed* is more than the former and less than the latter, the burst five times the latter. "
        f"The gateway held {_mib(burst.rss_bytes[0])} before, {_mib(burst.rss_bytes[1])} at the most by the end of the "
        f"first burst, {_mib(burst.rss_bytes[2])} in the second, {_mib(burst.rss_bytes[3])} afterwards, as glibc keeps "
        f"what was freed. It used {burst.gateway_cpu_ratio:.2f} of a core during the bursts. The client was up to "
        f"{_ms(burst.sender_late_s)} late with a request, which counts as latency."
    )
    yield _table(
        (
            *("", "requests/s", "sent", "in time", "late", "told at the deadline", "refused", "failed"),
            *("at the narrowest", "accuracy", "longest answer", "longest refusal"),
        ),
        (
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
        ),
    )
    if burst.narrowed_at_s is not None:
        first = (
            "none was refused" if burst.refused_at_s is None else f"the first refusal came at {burst.refused_at_s:.2f}"
        )
        yield f"The first answer below full width came {burst.narrowed_at_s:.2f} s after the beginning; {first} s."


def _soak(soak: Soak) -> Iterator[str]:
    slopes = memory_slopes(soak)
    yield f"## {soak.took_s / 60:.0f} minutes of mixed load"
    yield (
        f"A supervisor and two workers, {requests_per_s(soak):.0f} inference requests a second of all kinds below. "
        f"Memory is RssAnon, fitted with a straight line from second {min(SETTLED_S, soak.took_s / 2):.0f} on; "
        f"readings are averaged over {min(BLOCK_S, soak.took_s / 20):.0f} s, because an allocator's steps are no "
        "independent errors. Descriptors, threads and tasks are those at rest, before and after the load. How quickly "
        "anything was is no part of these claims, so other work may run beside."
    )
    kib = {p.name: p.rss_kib for p in soak.processes}
    yield _table(
        ("process", "mean MiB", "slope, KiB/min", "95 % interval", "descriptors", "threads"),
        (
            (
                name,
                f"{mean(kib[name]) / 1024:.1f}",
                f"{slope.per_s * 60 / 1024:+.2f}",
                f"{slope.low_per_s * 60 / 1024:+.2f} to {slope.high_per_s * 60 / 1024:+.2f}",
                f"{soak.before.descriptors[name]} → {soak.after.descriptors[name]}",
                f"{soak.before.threads[name]} → {soak.after.threads[name]}",
            )
            for name, slope in slopes.items()
        ),
    )
    most = max((count for _, count in soak.tasks), default=0)
    yield (
        f"Tasks of asyncio in both workers: {soak.before.tasks} before, {most} at the most, {soak.after.tasks} after. "
        f"{soak.unexpected} requests ended otherwise than their kind may."
    )
    yield _table(
        ("client", "ended with", "left out by the client"),
        (
            (
                name,
                ", ".join(f"{word} {count:,}" for word, count in sorted(found.items())),
                str(soak.skipped.get(name, 0)),
            )
            for name, found in sorted(soak.ended.items())
        ),
    )
    if soak.examples:
        yield "\n".join(("Unexpected ends:", "", *(f"- {text}" for text in soak.examples)))


def _lost(outage: Outage) -> str:
    if not outage.lost:
        return "0"
    return ", ".join(f"{count} {reason}" for reason, count in sorted(outage.lost.items()))


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


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:.0f} ms"


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / MIB:.0f} MiB"
