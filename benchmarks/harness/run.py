"""What every run says of itself, and the way to JSON and back.

Raw numbers are kept whole, so that claims, page and picture can be made anew from a committed run without running it
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from benchmarks.harness.claims import claims_table, encode_claim
from benchmarks.harness.machine import Machine, describe_machine, list_versions
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import Block, Heading, Text
from orchestrator.reporting.claim import Claim


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run; each benchmark adds what it found.

    Attributes:
        taken_at: When it began, ISO 8601.
        took_s: How long it took; 0 where that was not noted.
        machine: What it was made on.
        versions: Of what took part, by name.
    """

    taken_at: str
    took_s: float = 0.0
    machine: Machine
    versions: dict[str, str]

    @classmethod
    def begin(cls, **found: Any) -> Self:
        """Return a run that begins now, here."""
        taken_at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(taken_at=taken_at, machine=describe_machine(), versions=list_versions(), **found)

    def encode(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        values: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return values

    def encode_with(self, claims: Sequence[Claim], *, key: str = "claims") -> dict[str, Any]:
        """Return a document: claims first, then what the run was made on and with, then every raw number."""
        raw = self.encode()
        base = ScenarioRun if isinstance(self, ScenarioRun) else Run
        head = {each.name: raw[each.name] for each in fields(base)}
        return {key: [encode_claim(claim) for claim in claims], **head, "raw": raw}


@dataclass(frozen=True, kw_only=True)
class ScenarioRun(Run):
    """A run of scenarios, each of which may fail or be taken again alone.

    What a scenario found is the attribute of its name, unless the benchmark says otherwise.

    Attributes:
        failures: Why a scenario has no numbers, by its name.
        taken_again: When a scenario was taken anew and alone, by its name.
    """

    failures: dict[str, str] = field(default_factory=dict)
    taken_again: dict[str, str] = field(default_factory=dict)

    def found(self, name: str) -> Any:
        """Return what a scenario found; None where it has no numbers."""
        return getattr(self, name)

    def with_found(self, name: str, found: Any) -> Self:
        """Return the run with what a scenario found; None: nothing."""
        return replace(self, **{name: found})

    def taken_from(self, again: Self, names: Sequence[str]) -> Self:
        """Return the run with some of its scenarios taken from another, which was made of these alone.

        For when other work disturbed the machine during one scenario of a long run; the page says which and when.
        """
        run = self
        for name in names:
            run = run.with_found(name, again.found(name))
        failures = {name: reason for name, reason in run.failures.items() if name not in names}
        taken_again = {**run.taken_again, **dict.fromkeys(names, again.taken_at)}
        return replace(run, failures={**failures, **again.failures}, taken_again=taken_again)


AnyRun = TypeVar("AnyRun", bound=Run)


def parse_run(kind: type[AnyRun], values: object, what: str) -> AnyRun:
    """Return the run of a kind that decoded JSON spells; raises ConfigError, which names the benchmark, for others."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"this is no run of the {what} ({path}: {problem['msg']})") from exc


def page_head(title: str, prose: str, run: Run, claims: Sequence[Claim]) -> Iterator[Block]:
    """Yield how every page begins: what it is about, what it was made on and with, and its claims."""
    versions = ", ".join(f"{name} {number}" for name, number in sorted(run.versions.items()))
    yield Heading(1, title)
    yield Text(prose)
    took = f" in {run.took_s / 60:.1f} minutes" if run.took_s else ""
    yield Text(f"Taken at {run.taken_at}{took} on {run.machine}. {versions}.")
    if isinstance(run, ScenarioRun):
        for name, taken_at in run.taken_again.items():
            yield Text(f"`{name}` was taken again, alone, at {taken_at}, because other work disturbed the machine.")
    yield Heading(2, f"Claims: {sum(claim.is_met for claim in claims)} of {len(claims)} met")
    yield claims_table(claims)
    if isinstance(run, ScenarioRun):
        for name, reason in run.failures.items():
            yield Text(f"**{name} has no numbers:** {reason}")
