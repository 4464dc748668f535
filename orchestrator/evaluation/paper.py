"""The claims of suite ``paper``: what arXiv 2510.09018 reports against random routing, reproduced and put in its place.

Its two points, against a uniformly random server and width:

1. at the slimmest width, 96.45 % less mean latency and 97.31 % less energy, which must be latency-attributed: no
   machine with idle power saves that much a request (see orchestrator.evaluation.figures);
2. with no less accuracy, less latency and less energy.

What a random policy does depends on the load most of all: it overloads the slow machine, and then its latency grows
for as long as a run lasts. So every load is tabled, each claim names the lightest one at which its point holds, and
true energy stands beside. Heuristics and learned policies are held to both points apart; which of them is held to one
was chosen on the validation file of that load. Groups under the random baseline form from whatever waits at a server,
as under every early binding; drawing the size too would only slow the baseline down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.evaluation.choices import middle
from orchestrator.evaluation.claim import Claim
from orchestrator.evaluation.contenders import LEARNED, is_learned
from orchestrator.evaluation.standings import Field
from orchestrator.evaluation.statistics import Estimate, estimate_difference, estimate_ratio, less
from orchestrator.evaluation.suites import RANDOM

LATENCY_BAR: Final = 0.9645
ENERGY_BAR: Final = 0.9731
_ALL_SLIM: Final = 0.999
"""Of the answers at the slimmest width."""
_WHO: Final[dict[str, tuple[str, str]]] = {
    "heuristic": ("lert:narrowest", "lert:75"),
    "learned policy": (f"{LEARNED},accuracy=0,latency=0,energy=1", f"{LEARNED},accuracy=1,latency=0,energy=0"),
}
"""Who is held to the two points where there is no validation file."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Who is held to a point at one load, with what came of it.

    Attributes:
        field: the test scenario.
        label: the policy.
        claims: of the point.
    """

    field: Field
    label: str
    claims: tuple[Claim, ...]

    @property
    def is_met(self) -> bool:
        """Whether the whole point holds."""
        return all(claim.is_met for claim in self.claims)


def paper_claims(fields: Sequence[Field]) -> Iterator[Claim]:
    """Return the claims of both points, each at the lightest load at which it holds, else at the heaviest."""
    validation = {field.case.stem: field for field in fields if field.case.is_validation}
    tests = sorted((f for f in fields if not f.case.is_validation), key=lambda f: f.load_ratio)
    for who, defaults in _WHO.items():
        for draw, choose, default in (
            (_slimmest_point, _choose_slimmest, defaults[0]),
            (_accurate_point, _choose_accurate, defaults[1]),
        ):
            held = []
            for field in tests:
                known = validation.get(field.case.stem)
                label = (None if known is None else choose(known, who)) or default
                held.append(_Held(field, label, tuple(draw(field, label, who))))
            yield from _stated(held)


def saving(field: Field, label: str, name: str) -> Estimate | None:
    """Return by how much less of a figure a policy has than random, as a ratio; None when either has none."""
    if not {label, RANDOM} <= field.standings.keys():
        return None
    ratio = estimate_ratio(field.standings[label].figures[name], field.standings[RANDOM].figures[name])
    return None if math.isnan(ratio.value) else less(ratio)


def gain(field: Field, label: str, name: str) -> Estimate | None:
    """Return by how much more of a figure a policy has than random; None when either has none."""
    if not {label, RANDOM} <= field.standings.keys():
        return None
    return estimate_difference(field.standings[label].figures[name], field.standings[RANDOM].figures[name])


def describe_load(field: Field) -> str:
    """Return the load in words."""
    width = "the quickest widths" if field.load_of_width is None else f"width {field.load_of_width}"
    return f"{field.load_ratio:.0%} of the capacity at {width}"


def _stated(held: Sequence[_Held]) -> Iterator[Claim]:
    if not held:
        return
    holds = [each for each in held if each.is_met]
    stated = holds[0] if holds else held[-1]
    loads = ", ".join(f"{each.field.load_ratio:.0%}" for each in holds) or "none"
    note = f"`{stated.label}` at {describe_load(stated.field)}; the whole point holds at loads: {loads}"
    if stated.label not in stated.field.standings:
        note = f"`{stated.label}` was not run"
    for claim in stated.claims:
        yield Claim(
            claim.name,
            claim.found,
            claim.bar,
            claim.unit,
            is_certain=claim.is_certain,
            note=note + claim.note,
        )


def _slimmest_point(field: Field, label: str, who: str) -> Iterator[Claim]:
    at = f"slimmest width, {who} against random"
    true = saving(field, label, "joules_per_answer")
    beside = "" if true is None else f"; true energy {true.value:.2%} less"
    yield Claim(f"{at}: mean latency less", saving(field, label, "mean_s"), LATENCY_BAR, "ratio")
    found = saving(field, label, "attributed_j")
    yield Claim(f"{at}: latency-attributed energy less", found, ENERGY_BAR, "ratio", note=beside)


def _accurate_point(field: Field, label: str, who: str) -> Iterator[Claim]:
    at = f"no less accurate, {who} against random"
    yield Claim(f"{at}: accuracy more", gain(field, label, "accuracy"), 0.0, "ratio")
    for what, name in (("mean latency", "mean_s"), ("true energy", "joules_per_answer")):
        yield Claim(f"{at}: {what} less", saving(field, label, name), 0.0, "ratio", is_certain=True)


def _choose_slimmest(field: Field, who: str) -> str | None:
    """Return who of those that answer at the slimmest width alone has the least mean latency."""
    slimmest = min(model.width for server in field.fleet for model in server.models)
    slim = [
        label for label in _labels(field, who) if field.standings[label].width_shares.get(slimmest, 0.0) >= _ALL_SLIM
    ]
    return min(slim, key=_figure(field, "mean_s"), default=None)


def _choose_accurate(field: Field, who: str) -> str | None:
    """Return who of those that are no less accurate and no slower than random takes the fewest joules."""
    accuracy, mean_s = _figure(field, "accuracy"), _figure(field, "mean_s")
    good = [
        label for label in _labels(field, who) if accuracy(label) >= accuracy(RANDOM) and mean_s(label) < mean_s(RANDOM)
    ]
    return min(good, key=_figure(field, "joules_per_answer"), default=None)


def _labels(field: Field, who: str) -> list[str]:
    return [label for label in field.standings if label != RANDOM and is_learned(label) == (who != "heuristic")]


def _figure(field: Field, name: str) -> Callable[[str], float]:
    return lambda label: middle(field.standings[label], name)
