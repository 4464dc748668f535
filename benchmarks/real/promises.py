"""Whether answers come as often as was promised within the time that was promised, at the caller's socket.

A decision expects an answer within a time, 97 times in 100 (orchestrator.profile.margin). Here the decisions of a
gateway's log are joined with what callers measured of the same requests, while a process that takes a core comes and
goes, and then the slowest server becomes three times slower. The time of the head of a batch counts, from when it was
sent: by the record it was due in so long, so it was promised an answer within its deadline, less what was left of it
then, plus what the batch might take. A head that the router gave up at its deadline never learned of its decision; of
it the log's own time counts, which is the shortest that it can have been.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real.testbed import hogged, open_logging_gateway
from orchestrator.embedded.server import EmbeddedServer
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import OK, Records
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.loadgen.target import SetUp
from orchestrator.profile.margin import CONFIDENCE

WINDOW = 200
"""Groups after a change within which promises are to hold again."""
LOADS = (0.6, 1.5)
"""Requests over what the fleet answers at full width."""
DEADLINE_S = 0.1
_WARM_UP_S = 2.0
_THROTTLED = 3.0


@dataclass(frozen=True, slots=True)
class Promises:
    """What became of the promises about one server and width under one load.

    Attributes:
        fleet: Its name in benchmarks.real.cells.FLEETS.
        load: Requests over what the fleet answers at full width.
        groups: Batches whose decision was sampled and whose head was answered.
        share: The part of them that was answered within what was promised.
        windows: The parts in each WINDOW groups one after another, ascending; of few groups none.
    """

    fleet: str
    load: float
    server: str
    width: int
    groups: int
    share: float
    windows: Sequence[float]

    def encode(self) -> dict[str, Any]:
        """Return values for JSON."""
        return asdict(self)


def decode_promises(values: Mapping[str, Any]) -> Promises:
    """Return what ``encode`` gave; raises TypeError when it is none of it."""
    return Promises(**values)


async def watch_promises(
    repository: Path, fleet: str, folder: Path, sample: LabelledSample, seconds: float
) -> list[Promises]:
    """Return how the promises about a fleet were kept.

    For the second quarter of the time a core is taken beside it; in the last one its slowest server is throttled.
    """
    found: list[Promises] = []
    for load in LOADS:
        decisions = folder / f"decisions-{load:g}"
        async with open_logging_gateway(repository, fleet, folder / f"{load:g}", decisions) as (set_up, slowest):
            capacity_rps = await measure_capacity(SetUp("full width", set_up.target, (("slim_width", 100),)), sample)
            records = await _measure(set_up, slowest, load * capacity_rps, seconds, sample)
        found += judge(fleet, load, records.after(_WARM_UP_S), read_decisions(decisions))
    return found


async def _measure(
    set_up: SetUp, slowest: EmbeddedServer, rate_rps: float, seconds: float, sample: LabelledSample
) -> Records:
    async def change() -> None:
        await asyncio.sleep(_WARM_UP_S + seconds / 4)
        async with hogged(1):
            await asyncio.sleep(seconds / 4)
        await asyncio.sleep(seconds / 4)
        slowest.throttle(_THROTTLED)

    load = Load("poisson", rate_rps, seconds, DEADLINE_S, warm_up_s=_WARM_UP_S)
    changing = asyncio.create_task(change())
    try:
        return (await run_load(set_up.target, set_up.of(load), sample.sent())).records
    finally:
        changing.cancel()


def read_decisions(directory: Path) -> dict[str, Mapping[str, Any]]:
    """Return the records of a decision log by their ids; what was refused undecided has none."""
    lines = [line for path in sorted(directory.glob("*.jsonl*")) for line in path.read_text().splitlines()]
    return {record["id"]: record for record in map(json.loads, lines) if "id" in record}


def judge(fleet: str, load: float, records: Records, decisions: Mapping[str, Mapping[str, Any]]) -> Iterator[Promises]:
    """Yield what became of the promises about each server and width that answered something."""
    heads: dict[str, float] = {}
    for sent_s, ended_s, status, decision in zip(
        records.sent_s, records.ended_s, records.status, records.decision, strict=True
    ):
        if status == OK and decision in decisions:
            heads.setdefault(str(decision), float(ended_s - sent_s))  # requests are in the order in which they were due
    kept: defaultdict[tuple[str, int], list[tuple[float, bool]]] = defaultdict(list)
    from_unix_s = min((decisions[decision]["at"] for decision in heads), default=math.inf)
    for decision, record in decisions.items():
        latency_s = heads.get(decision) if (given_up_s := _given_up_s(record)) is None else given_up_s
        promised_s = _promised_s(record)
        if latency_s is None or promised_s is None or record["at"] < from_unix_s:
            continue
        choice = record["choice"]
        kept[choice["server"], choice["width"]].append((record["at"], latency_s <= promised_s))
    for (server, width), groups in sorted(kept.items()):
        within = np.array([is_within for _, is_within in sorted(groups)], float)
        windows = [float(within[at : at + WINDOW].mean()) for at in range(0, len(within) - WINDOW + 1, WINDOW)]
        yield Promises(fleet, load, server, width, len(within), float(within.mean()), sorted(windows))


def _given_up_s(record: Mapping[str, Any]) -> float | None:
    """Return how long the head had waited when its batch was answered, where it was given up before that."""
    head = next(iter(record.get("outcome", {}).get("requests", ())), None)
    if head is None or head["in_time"] or head["deadline_s"] > DEADLINE_S:  # capacity is measured without deadlines
        return None
    return float(head["latency_s"])


def _promised_s(record: Mapping[str, Any]) -> float | None:
    """Return within what time from its sending a decision promised the head's caller an answer."""
    choice = record["choice"]
    if choice is None:
        return None
    chosen = next(c for c in record["candidates"] if (c["server"], c["width"]) == (choice["server"], choice["width"]))
    if chosen["margin"] is None:
        return None
    expected_s = chosen["wait_s"] + chosen["item_s"] * record["outcome"]["items"] + chosen["group_s"]
    return float(DEADLINE_S - record["queue"]["head_slack_s"] + expected_s * chosen["margin"])


def worst_points(found: Sequence[Promises]) -> list[float]:
    """Return by how many points each share differs from what was promised, where there were enough groups."""
    return [100 * abs(one.share - CONFIDENCE) for one in found if one.groups >= WINDOW]


def windows_away(found: Sequence[Promises]) -> list[float]:
    """Return for each window by how many points its share differs from what was promised.

    Rounded to what one group in WINDOW can't make up: binary fractions would have 190 of 200 differ by more than 2.
    """
    return [round(100 * abs(share - CONFIDENCE), 6) for one in found for share in one.windows]
