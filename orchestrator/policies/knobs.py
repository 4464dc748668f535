"""What of a policy can be tuned: numbers by name, as in ``achq:slack,theta=4/8,temperature=0.5``.

A policy's numbers lie in one column (orchestrator.policies.rule); its knobs are the last of them, at fixed places that
the policy's module names. A knob of servers takes one number for each, from the fastest on; the last one is that of
all further ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.policies.tables.compiled import Column, compiled

PARAMETER: Final = 2
"""Place in a rule's column of the width in percent that the rule FIXED takes, or the buckets of SlackFit."""
FIRST_KNOB: Final = 6
"""Place of the first knob in a rule's column."""
KNOB_COUNT: Final = 18
OF_SERVERS: Final = 8
"""How many places a knob of servers takes."""
MARGIN_PLACE: Final = KNOB_COUNT
"""Place of the slack margin: behind all others, in no rule's column."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A number that a policy may be given.

    Attributes:
        at: the place among the knobs; a knob of servers takes OF_SERVERS places from there on.
        default: the value where none is given; NaN: the router's own setting of that name.
        is_of_servers: whether it may be several numbers.
        is_log: whether a search should go over its logarithm.
    """

    name: str
    at: int
    default: float
    least: float
    most: float
    is_of_servers: bool = False
    is_log: bool = False

    def places(self, values: Sequence[float]) -> dict[int, float]:
        """Return what is written where."""
        if not self.is_of_servers:
            return {self.at: values[0]}
        return {self.at + rank: values[min(rank, len(values) - 1)] for rank in range(OF_SERVERS)}


SLACK_MARGIN_KNOB: Final = Knob("slack_margin", MARGIN_PLACE, math.nan, 1.0, 10.0, is_log=True)
"""A knob of every policy: in place of ``router.slack_margin``, or of a scenario's, where it looks at deadlines."""


@compiled
def knob(rule: Column, at: int) -> float:
    """Return what a knob is set to."""
    return rule[FIRST_KNOB + at]


@compiled
def knob_of_rank(rule: Column, at: int, rank: int) -> float:
    """Return what a knob of servers is set to for the one that is ``rank``-th fastest, from 0."""
    return rule[FIRST_KNOB + at + min(rank, OF_SERVERS - 1)]


def parse_knobs(text: str, known: Sequence[Knob], *, policy: str) -> Mapping[int, float]:
    """Return the places of all knobs with their values, given what stands behind the first comma.

    Raises:
        ConfigError: naming what may be written.
    """
    by_name = {k.name: k for k in known}
    values: dict[str, tuple[float, ...]] = {k.name: (k.default,) for k in known}
    given: set[str] = set()
    for part in text.split(",") if text else ():
        name, _, numbers = part.partition("=")
        if name not in by_name or name in given:
            listed = ", ".join(f"{k.name} ({k.least:g} to {k.most:g}, else {_default(k)})" for k in known)
            raise ConfigError(f"policy {policy!r}: {part!r} is no knob of it; known, each once: {listed}")
        given.add(name)
        values[name] = _numbers(by_name[name], numbers, policy=policy)
    return {at: value for k in known for at, value in k.places(values[k.name]).items()}


def _default(found: Knob) -> str:
    return "as the router's" if math.isnan(found.default) else f"{found.default:g}"


def _numbers(found: Knob, text: str, *, policy: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split("/"))
    except ValueError:
        numbers = (math.nan,)
    if all(found.least <= number <= found.most for number in numbers) and (
        len(numbers) == 1 or (found.is_of_servers and len(numbers) <= OF_SERVERS)
    ):
        return numbers
    several = f", or up to {OF_SERVERS} such with / between them" if found.is_of_servers else ""
    raise ConfigError(
        f"policy {policy!r}: {found.name}={text} is not allowed; give a number from {found.least:g} to "
        f"{found.most:g}{several}"
    )
