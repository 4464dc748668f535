"""What a benchmark that goes on where it was interrupted measures and keeps: what it is about, a capacity, and rows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import orchestrator
from benchmarks.harness.claims import encode_claim
from benchmarks.harness.machine import Machine
from orchestrator.errors import ConfigError
from orchestrator.loadgen.comparison import turns
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import measure
from orchestrator.loadgen.sample import Sample
from orchestrator.loadgen.target import SetUp
from orchestrator.reporting.claim import Claim
from orchestrator.reporting.journal import Journal, differences

Row = TypeVar("Row")
REMEDY = "remove it to begin anew"


@dataclass
class Taken(Generic[Row]):
    """What a journal holds: at its head what the run is about and the capacity that it goes by, then a line a row.

    Attributes:
        about: What the parts of a run must have in common.
        row: The dataclass of a row.
        capacity_rps: Requests a second that loads are told over; None until it is measured.
        rows: So far.
    """

    about: Mapping[str, Any]
    row: type[Row]
    capacity_rps: float | None = None
    rows: list[Row] = field(default_factory=list)

    def replay(self, number: int, values: Any) -> None:
        """Take in a line; raises ConfigError when it is of another run."""
        if number > 1:
            self.rows.append(self.row(**values))
            return
        self.capacity_rps = float(values.pop("capacity_rps"))
        check_about(values, self.about)

    def begin(self, capacity_rps: float, journal: Journal) -> None:
        """Keep the capacity that all rows go by."""
        self.capacity_rps = capacity_rps
        journal.write({**self.about, "capacity_rps": capacity_rps})

    def add(self, row: Row, journal: Journal) -> None:
        """Keep a row."""
        self.rows.append(row)
        journal.write(asdict(row))  # type: ignore[call-overload]

    def document(self, machine: Machine, claims: Sequence[Claim]) -> dict[str, Any]:
        """Return all of it for the benchmark's JSON."""
        return {
            "machine": str(machine),
            "capacity_rps": self.capacity_rps,
            "rows": [asdict(row) for row in self.rows],  # type: ignore[call-overload]
            "claims": [encode_claim(claim) for claim in claims],
        }


def check_about(found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Check that a journal is about what this run is about; raises ConfigError when it is not."""
    for key, was, now in differences(found, about):
        raise ConfigError(f"the journal was begun with {key} = {was}, now it is {now}; {REMEDY}")


def digest_code() -> str:
    """Return a digest of the package's sources: what other code measured is no part of a run."""
    sources = sorted(Path(orchestrator.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def about_machine(machine: Machine, **own: Any) -> Mapping[str, Any]:
    """Return the machine, as far as no two runs on it are mixed with another's, and what a run is about."""
    return {"cpu": machine.cpu, "cpus": machine.cpus, "kernel": machine.kernel, **own}


async def measure_in_turn(
    set_ups: Sequence[SetUp],
    loads: Sequence[Load],
    rounds: int,
    sample: Sample,
    *,
    known: Container[tuple[str, int, int]] = (),
    rest_s: float,
) -> AsyncIterator[tuple[str, int, int, Summary]]:
    """Yield what each set-up did with each load, by the load's index, and in which round, in the order of ``turns``.

    Before each run is a pause of ``rest_s``. What is ``known`` is left out; who interrupts loses one run.

    Raises:
        CancelledError: A run was cut.
    """
    for number, load, set_up in turns(set_ups, loads, rounds):
        index = loads.index(replace(load, seed=load.seed - number))
        if (set_up.name, index, number) in known:
            continue
        await asyncio.sleep(rest_s)
        found = await measure(set_up.target, set_up.of(load), sample, senders=1, progress=lambda seconds: None)
        if found.is_cut:
            raise asyncio.CancelledError
        yield set_up.name, index, number, found.summary
