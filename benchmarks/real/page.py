"""The page: what is promised, the picture, and a table for each fleet and deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.harness.claims import claims_table
from benchmarks.real.cells import BURSTS, FLEETS, Cell
from benchmarks.real.claims import NARROWEST
from benchmarks.real.promises import WINDOW, Promises
from benchmarks.real.results import Line, by_cell, means_right
from benchmarks.real.testbed import DEFAULT, FIXED, IN_TURN, RULES, TRITON
from orchestrator.reporting.blocks import Block, Bullets, Heading, Picture, Table, Text
from orchestrator.reporting.claim import Claim


def make_page(
    lines: Sequence[Line],
    promises: Sequence[Promises],
    claims: Sequence[Claim],
    setting: Mapping[str, Any],
    picture: str | None,
) -> Iterator[Block]:
    """Yield the blocks of the page."""
    yield Heading(1, "Policies on real servers")
    yield Text(
        "Right answers within the deadline, of all requests that were due (top-1 in time), on real tritonservers on "
        "one machine of two cores. Each set-up got each load in turn, after another one each time, when the servers "
        "had done all that the one before had left; latency counts from when a request was due. How unlike the servers "
        "are is emulated. Who always runs at one width asks for it (`slim_width`). Loads beyond what full width can "
        "answer, at which runs differ most, have several rounds, but for plain Triton. Tables show what was measured, "
        "on average over the rounds. In claims an answer in time counts for as often as its width is right on all "
        "images that are sent, so that which of them a run of a few seconds came to, the same for all set-ups, decides "
        "nothing. What is refused was not sent to a server. Made by `make bench-real`."
    )
    measured = dict.fromkeys(line.cell.fleet for line in lines)
    fleets = [f"{name}: slow-downs {', '.join(f'{s:g}' for s in FLEETS[name])}" for name in measured]
    yield Bullets("", [*fleets, *(f"{key}: {value}" for key, value in setting.items())])
    if picture is not None:
        yield Picture("", picture, "Top-1 in time over load for each set-up")
    yield claims_table(claims)
    yield Bullets("", [f"{claim.name}: {claim.note}" for claim in claims if claim.note])
    shown = {line.set_up for line in lines}
    names = [name for name in (DEFAULT, *FIXED, *RULES, *TRITON, *IN_TURN) if name in shown]
    for fleet, hogs in dict.fromkeys((line.cell.fleet, line.cell.hogs) for line in lines):
        yield Heading(2, f"{fleet.capitalize()}, {'quiet' if not hogs else 'beside a process that takes a core'}")
        rows = []
        for cell, own in means_right(lines).items():
            if (cell.fleet, cell.hogs) != (fleet, hogs) or cell.is_burst:
                continue
            best = max(own.values())
            rows.append(
                (
                    cell.workload,
                    f"{cell.deadline_s * 1e3:g} ms",
                    f"{cell.ratio:g}",
                    *(_cell(own.get(name), best) for name in names),
                )
            )
        yield Table(("arrivals", "deadline", "load", *names), rows)
    yield from _bursts(by_cell(lines))
    if promises:
        yield Heading(2, "Promises, at the caller's socket")
        yield Text(
            "A decision expects an answer within a time, 97 times in 100. In the second quarter of each run a process "
            "beside it takes a core, and in the last one the slowest server is three times as slow."
        )
        yield Table(
            ("fleet", "load", "server", "width", "batches", "kept, %", f"in windows of {WINDOW}"),
            [
                (
                    found.fleet,
                    f"{found.load:g}",
                    found.server,
                    f"{found.width} %",
                    f"{found.groups}",
                    f"{100 * found.share:.1f}",
                    f"{100 * found.windows[0]:.0f} to {100 * found.windows[-1]:.0f}" if found.windows else "–",
                )
                for found in promises
            ],
        )


def _bursts(found: Mapping[tuple[Cell, int], Mapping[str, Line]]) -> Iterator[Block]:
    cells = list(dict.fromkeys(cell for cell, _ in found if cell.is_burst))
    if not cells:
        return
    yield Heading(2, "Bursts")
    *deadlines, last = [f"{deadline_s:g} s for {count:,}" for count, deadline_s in BURSTS.items()]
    yield Text(
        "Answered in time of requests that were all due at once, in percent, in each round. "
        f"Deadlines are {', '.join(deadlines)} and {last} requests."
    )
    rows = []
    for cell in cells:
        rounds = [own for (other, _), own in found.items() if other == cell]
        shares = [
            " ".join(f"{100 * own[name].in_time:.1f}" for own in rounds if name in own) for name in (DEFAULT, NARROWEST)
        ]
        hogs = "" if not cell.hogs else "beside a process that takes a core"
        rows.append((cell.fleet, hogs, cell.workload.removeprefix("burst:"), *shares))
    yield Table(("fleet", "", "requests", DEFAULT, NARROWEST), rows)


def _cell(right: float | None, best: float) -> str:
    if right is None:
        return "–"
    text = f"{100 * right:.1f}"
    return f"**{text}**" if right == best else text
