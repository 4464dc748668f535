"""Every kind of client at once, in a process of its own: ``python -m`` with GRPC HTTP SECONDS SEED.

Each kind arrives by a Poisson process of its own, whether or not its earlier ones have ended, but never with more than
``MOST_AT_ONCE`` under way, so that a gateway that stands still does not make this process grow. What a kind may end
with is part of its definition in `mixed_kinds` and `leaving`; anything else is *unexpected* and shown with an example.
Prints one line of JSON when it ends, and one a minute to stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.resilience.clients.leaving import LEAVING
from benchmarks.resilience.clients.mixed_kinds import MIXED, Kind, World, open_world

MOST_AT_ONCE = 64
DRAIN_S = 20.0
REPORT_S = 60.0
EXAMPLES_KEPT = 10
KINDS: Mapping[str, Kind] = {**MIXED, **LEAVING}


@dataclass(slots=True)
class Counts:
    """What the kinds ended with.

    Attributes:
        ended: How many ended, by kind and outcome.
        skipped: How many were left out because too many were under way, by kind.
        unexpected: Outcomes that their kind does not allow.
        examples: The first few of these.
    """

    ended: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, name: str, kind: Kind, outcome: str) -> None:
        """Count an end."""
        self.ended.setdefault(name, Counter())[outcome.partition(":")[0]] += 1
        if outcome.partition(":")[0] not in kind.allowed:
            self.unexpected += 1
            if len(self.examples) < EXAMPLES_KEPT:
                self.examples.append(f"{name}: {outcome}")

    def encode(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "ended": {name: dict(found) for name, found in self.ended.items()},
            "skipped": dict(self.skipped),
            "unexpected": self.unexpected,
            "examples": self.examples,
        }


async def run(grpc: str, http: str, seconds: float, seed: int) -> Counts:
    """Send for so long, wait for what is under way, and return what became of it all."""
    counts = Counts()
    async with open_world(grpc, http, seed) as world:
        reporting = asyncio.create_task(_report(counts))
        try:
            await asyncio.gather(
                *(
                    _arrive(world, name, kind, counts, seconds, np.random.default_rng([seed, number]))
                    for number, (name, kind) in enumerate(KINDS.items())
                )
            )
        finally:
            reporting.cancel()
    return counts


async def _arrive(
    world: World, name: str, kind: Kind, counts: Counts, seconds: float, rng: np.random.Generator
) -> None:
    loop = asyncio.get_running_loop()
    due_s, ends_s = loop.time(), loop.time() + seconds
    tasks: set[asyncio.Task[None]] = set()
    while (due_s := due_s + rng.exponential(1 / kind.rate_rps)) < ends_s:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        if len(tasks) >= MOST_AT_ONCE:
            counts.skipped[name] += 1
            continue
        task = asyncio.create_task(_once(world, name, kind, counts))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=DRAIN_S)
    for task in tuple(tasks):
        counts.note(name, kind, f"unanswered: {DRAIN_S:g} s after the end of the load")
        task.cancel()


async def _once(world: World, name: str, kind: Kind, counts: Counts) -> None:
    try:
        outcome = await kind.ask(world)
    except Exception as exc:  # whatever a client raises is an outcome, and counted
        outcome = f"{type(exc).__name__}: {exc}"
    counts.note(name, kind, outcome)


async def _report(counts: Counts) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        print(json.dumps(counts.encode()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    grpc_, http_, seconds_, seed_ = sys.argv[1:]
    print(json.dumps(asyncio.run(run(grpc_, http_, float(seconds_), int(seed_))).encode()), flush=True)
