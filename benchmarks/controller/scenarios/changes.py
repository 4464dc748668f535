"""A seeded order of reconfigurations of every kind that starts and ends in the same configuration.

Two kinds undo each other twice (scale up and down, load and unload) and are drawn equally often, so whoever draws any
kind that is possible now can never get stuck, and everything drawn leads back to where it began.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.planner.host import Batching

MAX_INSTANCES = 3
"""Of a steady model."""
PLAIN = Batching()
ALTERNATIVES = (Batching((4,), 500), Batching((8,), 1000), Batching((16,), 2000))


class ChangeKind(StrEnum):
    """What is changed."""

    SCALE_UP = "scale up"
    SCALE_DOWN = "scale down"
    BATCHING = "batching reload"
    NONCE = "forced reload"
    LOAD = "load"
    UNLOAD = "unload"


OPPOSITES = ((ChangeKind.SCALE_UP, ChangeKind.SCALE_DOWN), (ChangeKind.LOAD, ChangeKind.UNLOAD))


@dataclass(frozen=True, slots=True)
class Change:
    """One reconfiguration.

    Attributes:
        kind: What is changed.
        model: The model that is changed.
        instances_before: 0 when it is not loaded.
        instances: Instances afterwards; 0 for an unload.
        batching: The batching afterwards.
        is_home: Whether widths and instances are those of the start afterwards.
    """

    kind: ChangeKind
    model: str
    instances_before: int
    instances: int
    batching: Batching
    is_home: bool


def draw_changes(
    steady: Sequence[str],
    loose: Sequence[str],
    counts: Mapping[ChangeKind, int],
    *,
    seed: int,
) -> tuple[Change, ...]:
    """Return so many changes of each kind, in an order drawn with ``seed``.

    Steady models are loaded with one instance all along, and are scaled and reloaded; loose ones are absent at start
    and end, and are loaded and unloaded. Raises ValueError when opposites are not equal.
    """
    for one, other in OPPOSITES:
        if counts.get(one, 0) != counts.get(other, 0):
            raise ValueError(f"{one} and {other} must be drawn equally often")
    rng = random.Random(seed)
    left = dict(counts)
    instances = {**dict.fromkeys(steady, 1), **dict.fromkeys(loose, 0)}
    home = dict(instances)
    batching = dict.fromkeys(instances, PLAIN)
    changes: list[Change] = []
    while any(left.values()):
        candidates = _candidates(instances, steady, loose)
        possible = [kind for kind in ChangeKind if left.get(kind, 0) and candidates[kind]]
        kind = rng.choices(possible, weights=[left[k] for k in possible])[0]
        left[kind] -= 1
        model = rng.choice(candidates[kind])
        before = instances[model]
        instances[model] = before + _STEP[kind]
        if kind is ChangeKind.BATCHING:
            batching[model] = rng.choice([b for b in (PLAIN, *ALTERNATIVES) if b != batching[model]])
        changes.append(Change(kind, model, before, instances[model], batching[model], instances == home))
    return tuple(changes)


_STEP: Mapping[ChangeKind, int] = {
    ChangeKind.SCALE_UP: 1,
    ChangeKind.SCALE_DOWN: -1,
    ChangeKind.BATCHING: 0,
    ChangeKind.NONCE: 0,
    ChangeKind.LOAD: 1,
    ChangeKind.UNLOAD: -1,
}


def _candidates(
    instances: Mapping[str, int], steady: Sequence[str], loose: Sequence[str]
) -> Mapping[ChangeKind, list[str]]:
    return {
        ChangeKind.SCALE_UP: [m for m in steady if instances[m] < MAX_INSTANCES],
        ChangeKind.SCALE_DOWN: [m for m in steady if instances[m] > 1],
        ChangeKind.BATCHING: list(steady),
        ChangeKind.NONCE: list(steady),
        ChangeKind.LOAD: [m for m in loose if instances[m] == 0],
        ChangeKind.UNLOAD: [m for m in loose if instances[m] > 0],
    }
