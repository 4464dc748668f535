"""What a request prefers once it is in time: accuracy, an early answer, little energy, weighed by the request itself.

A request that says so is decided by this policy, whatever the router's own is. Deadlines come first: candidates that
are in time for the head, at a width that lets the queue behind it drain in time, are weighed; when there are none, the
width that drains first goes to the server that answers first, as everywhere. So a preference never makes others late.

Of those that are in time each gets

    accuracy · (a − a₀)/(a₁ − a₀)  −  latency · margin·t/slack  −  energy · (e − e₀)/(e₁ − e₀)

with a the accuracy, t the expected completion and e the expected joules an item, and the least and the most of them
among all that are weighed. Each term lies in 0..1, so weights mean the same on every fleet: the weighted sum of
normalised objectives of the multi-criteria literature. Its known limit, that a sum finds no point in a dent of the
Pareto front, is of no weight among some dozen candidates. Where no energy is known that term is left out; where some
is, a candidate without counts as the dearest, because unknown is not free. Ties go to the wider width, then to the
first server by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.snapshot import Preference

_WORDS = {
    "accuracy": Preference(1.0, 0.0, 0.0),
    "latency": Preference(0.0, 1.0, 0.0),
    "energy": Preference(0.0, 0.0, 1.0),
    "balanced": Preference(1 / 3, 1 / 3, 1 / 3),
}
_AXES = ("accuracy", "latency", "energy")


def parse_preference(text: str) -> Preference:
    """Return what ``accuracy``, ``balanced``, … or ``accuracy=0.5,latency=0.3,energy=0.2`` asks for.

    Weights are scaled to add up to 1; one that is left out is 0.

    Raises:
        ConfigError: naming what may be written.
    """
    if text in _WORDS:
        return _WORDS[text]
    weights = dict.fromkeys(_AXES, 0.0)
    named = set()
    for part in text.split(","):
        axis, _, number = (side.strip() for side in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if axis not in weights or axis in named or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"{text!r} is no preference; give {', '.join(_WORDS)}, or weights from 0 on such as "
                "'accuracy=0.5,latency=0.3,energy=0.2', each named once"
            )
        weights[axis] = weight
        named.add(axis)
    most = max(weights.values())
    if most <= 0:
        raise ConfigError(f"{text!r} weighs nothing; give at least one weight above 0")
    scaled = [weights[axis] / most for axis in _AXES]  # before they are added, or huge ones would add up to infinity
    return Preference(*(weight / sum(scaled) for weight in scaled))


@dataclass(frozen=True, slots=True)
class PreferredPolicy:
    """Takes what suits the head's preference best of all that is in time; without one, what is most accurate."""

    name: str = "preferred"
    binding: Binding = Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Decide, see ``Policy``. A better candidate that is busy is waited for, as long as it is in time."""
        if not candidates:
            return Hold(Reason.NO_CANDIDATE)
        tail_slack_s = situation.queue.tail_deadline_s - situation.now_s
        timely = [
            c for c in candidates if situation.is_in_time(c) and c.drain_s * situation.slack_margin <= tail_slack_s
        ]
        if timely:
            best, reason = _best(timely, situation), Reason.BEST_BY_PREFERENCE
        else:
            width = min((c.drain_s, c.width) for c in candidates)[1]
            of_width = [c for c in candidates if c.width == width]
            best, reason = min(of_width, key=lambda c: (c.head_completion_s, c.server)), Reason.NONE_IN_TIME
        return Dispatch(best, reason) if best.has_room else Hold(Reason.BETTER_SERVER_BUSY)


def _best(timely: Sequence[Candidate], situation: Situation) -> Candidate:
    weights = situation.queue.preference or _WORDS["accuracy"]
    accuracies = [c.accuracy for c in timely]
    joules = [None if c.energy_j is None else c.energy_j / c.items for c in timely]
    known = [j for j in joules if j is not None]
    slack_s = situation.head_slack_s

    def score(index: int) -> float:
        candidate, per_item_j = timely[index], joules[index]
        value = weights.accuracy * _position(candidate.accuracy, accuracies)
        if slack_s > 0:  # else whatever is in time takes no time at all
            value -= weights.latency * candidate.completion_s * situation.margin_of(candidate) / slack_s
        if known:
            value -= weights.energy * (1.0 if per_item_j is None else _position(per_item_j, known))
        return value

    order = sorted(range(len(timely)), key=lambda i: (-timely[i].width, timely[i].server))
    return timely[max(order, key=score)]  # max keeps the first of equals


def _position(value: float, values: Sequence[float]) -> float:
    """Return where a value lies between the least and the most, 0..1; 0 when they are equal."""
    least, most = min(values), max(values)
    return (value - least) / (most - least) if most > least else 0.0
