"""What is tried of a policy: its knobs, the slack margin, and the width rules that it may be combined with.

A policy is known by its name with the width rule ``slack`` where it takes one (``jsq:slack``), because that is what a
load balancer of slimmable servers is without a tuner. This is the first configuration that is tried; the others are
points of a scrambled Sobol sequence, which fills a space of few dimensions more evenly than random points do. Half of
them keep ``slack``, the other half run at one fixed width: "the best fixed width of each scenario", which a comparison
must not leave out.

A policy of another package is tuned when it is named, over all that its own knobs may be. The ranges of ours are
narrower than what a knob may be: where it does something on servers whose batches take milliseconds and deadlines of
10 ms to a second.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import check_extra
from orchestrator.policies.knobs import Knob
from orchestrator.policies.parsing import is_of_package, knobs_of
from orchestrator.policies.registry import has_width_rule, parse_policy, policy_names
from orchestrator.policies.rule import WIDTH_RULE
from orchestrator.policies.rules.width_rules import SLACK
from orchestrator.snapshot import Width

SEARCHED: Final[Mapping[str, tuple[float, float]]] = {
    "slack_margin": (1.0, 3.0),
    "theta": (-8.0, 64.0),
    "temperature": (0.05, 8.0),
    "step": (0.25, 8.0),
    "backoff": (0.5, 0.99),
    "limit": (1.0, 48.0),
    "ahead_s": (0.0, 0.02),
    "load": (0.4, 1.0),
    "hold_s": (0.01, 4.0),
    "window_s": (0.02, 4.0),
    "sigmas": (0.0, 4.0),
    "goal": (0.0, 1.0),
    "interval_s": (0.1, 5.0),
    "margin": (0.0, 0.5),
    "worth": (0.0, 0.6),
    "latency": (0.0, 1.0),
    "patience": (0.01, 1.0),
    "reserve": (1.0, 4.0),
    "fill": (0.0, 0.2),
    "calm_s": (0.05, 4.0),
    "step_s": (0.02, 2.0),
    "used": (0.2, 1.0),
    "risk": (0.0003, 0.3),
}
"""From where to where each knob is searched; the same in every policy that has one of that name."""
BUCKETS: Final = (2.0, 64.0)
"""Of the policies that take a number of buckets."""
RANKS: Final = 3
"""How many numbers a knob of servers is tried with: the fastest three; the last one is that of all slower ones."""
_WITH_BUCKETS: Final = ("slackfit", "slackfit-accuracy")
_NOT_TUNED: Final = ("random", "random-batch")
"""What everything is held against has nothing to tune."""
_MARGIN: Final = Knob("slack_margin", 0, 1.25, 1.0, 10.0, is_log=True)


def tuned_policies() -> tuple[str, ...]:
    """Return what can be tuned, each by the spec of its first configuration, in the order of policies' names."""
    return tuple(_first_spec(name) for name in policy_names() if name not in _NOT_TUNED)


def check_tuned(policies: Iterable[str]) -> None:
    """Check that policies are among those that are tuned; raises ConfigError when one is not."""
    for policy in policies:
        if policy not in tuned_policies() and not (is_of_package(policy) and "," not in policy):
            raise ConfigError(f"policy {policy!r} is none that is tuned; known: {', '.join(tuned_policies())}")


def configurations(policy: str, widths: Sequence[Width], budget: int, seed: int) -> tuple[str, ...]:
    """Return as many specs of a policy as the budget allows; the first is the policy itself.

    ``widths`` are those that some server of the fleet has; the seed is that of the scrambling. The same arguments give
    the same specs.

    Raises:
        ConfigError: when there is no such policy, or scipy is not installed.
    """
    check_tuned([policy])
    name, seeds = policy.partition(":")[0], [seed, zlib.crc32(policy.encode())]
    if is_of_package(policy):
        own = knobs_of(policy)
        points = _sobol(len(own), budget - 1, seeds) if own else []
        return (policy, *(f"{policy},{_own_values(own, point)}" for point in points))
    takes_more = has_width_rule(name) or name in _WITH_BUCKETS
    points = _sobol(takes_more + len(default_point(name)), budget - 1, seeds)
    return (policy, *(_spec(name, sorted(widths), point, takes_more) for point in points))


def default_point(policy: str) -> tuple[float, ...]:
    """Return the point of the unit cube of margin and knobs at which a policy is about as it is by default."""
    return (_part(_MARGIN, _MARGIN.default), *(_part(axis, axis.default) for axis in _axes(policy)))


def spec_at(policy: str, point: Sequence[float]) -> str:
    """Return a policy, by its spec without knobs, with the margin and the knobs of a point of the unit cube."""
    values: dict[str, list[str]] = {"slack_margin": [_value(_MARGIN, point[0])]}
    for axis, part in zip(_axes(policy), point[1:], strict=True):
        values.setdefault(axis.name, []).append(_value(axis, part))
    return ",".join([policy, *(f"{key}={'/'.join(numbers)}" for key, numbers in values.items())])


def _axes(policy: str) -> list[Knob]:
    return [axis for k in knobs_of(policy) for axis in [k] * (RANKS if k.is_of_servers else 1)]


def _part(knob: Knob, value: float) -> float:
    """Return where a value lies in what is searched of a knob, 0..1; the inverse of ``_value``."""
    least, most = SEARCHED[knob.name]
    is_log = knob.is_log and least > 0
    part = math.log(value / least) / math.log(most / least) if is_log else (value - least) / (most - least)
    return min(1.0, max(0.0, part))


def _first_spec(name: str) -> str:
    if has_width_rule(name) and parse_policy(name).numbers[WIDTH_RULE] != SLACK:
        return f"{name}:slack"
    return name


def _spec(name: str, widths: Sequence[Width], point: Sequence[float], takes_more: bool) -> str:
    """Return the spec of a point of the unit cube: margin first, then what stands behind the colon, then the knobs."""
    if not takes_more:
        return spec_at(name, point)
    more = _buckets(point[1]) if name in _WITH_BUCKETS else _width_rule(widths, point[1])
    return spec_at(f"{name}:{more}", (point[0], *point[2:]))


def _width_rule(widths: Sequence[Width], part: float) -> str:
    if part < 0.5:
        return "slack"
    return str(widths[min(len(widths) - 1, int((2 * part - 1) * len(widths)))])


def _buckets(part: float) -> str:
    least, most = BUCKETS
    return str(round(least * (most / least) ** part))


def _own_values(knobs: Sequence[Knob], point: Sequence[float]) -> str:
    """Return values of another package's knobs, over all that they may be: what makes sense there is its business."""
    parts = zip(knobs, point, strict=True)
    return ",".join(f"{knob.name}={_value(knob, part, (knob.least, knob.most))}" for knob, part in parts)


def _value(knob: Knob, part: float, searched: tuple[float, float] | None = None) -> str:
    least, most = searched or SEARCHED[knob.name]
    value = least * (most / least) ** part if knob.is_log and least > 0 else least + (most - least) * part
    return f"{value:.3g}"


def _sobol(dimensions: int, count: int, seed: Sequence[int]) -> list[list[float]]:
    check_extra("tuning", "sim", "scipy")
    import numpy as np
    from scipy.stats import qmc

    if count < 1:
        return []
    # A power of two keeps the sequence balanced; the rest of it is left out.
    sampler = qmc.Sobol(dimensions, scramble=True, seed=np.random.default_rng(seed))
    drawn = sampler.random_base2(math.ceil(math.log2(count)) if count > 1 else 0)
    return [[float(x) for x in point] for point in drawn[:count]]
