"""Which world comes next, and which heuristic is the one to learn from in it.

The curriculum keeps a pool of draws (orchestrator.learning.tasks), each with its trace, and what the best of the
heuristics earned on it. Half of the episodes are new draws; the others are taken from the pool, those more often on
which the policy trails the best heuristic (Genet, SIGCOMM'22). Both meet the same trace, so the gap is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from orchestrator.learning.tasks import draw_task, simulate_totals, utility, vary_load, vary_task
from orchestrator.policies.registry import parse_policy
from orchestrator.simulation.rewards import Task

EXPERTS: Final = (
    "thrift",
    "thrift,patience=0.05",
    "thrift,reserve=1",
    "lert:reserve",
    "lert:slack",
    "nexus",
    "nexus:25",
    "control-limit:25",
    "model-switching",
    "lert:narrowest",
)
"""Heuristics that a policy is cloned from and held against; each binds late."""
_POOL: Final = 64
_CLEARLY: Final = 0.01
"""Better, a request."""
_OTHER_TRACES: Final = 3
_MOST_GAP: Final = 0.1
"""That makes an episode likelier: in a hopeless world a policy may trail by whole requests, and would learn of nothing
else."""


def best_expert(task: Task, seed: int) -> tuple[str, float]:
    """Return the heuristic to learn from on a trace, and what the best one earns.

    That is the best one only where it is clearly better than the first of all, and on other traces of the same world as
    well: the best of ten on one trace is on the next no better than the first, so alike worlds would show
    different things for nothing.
    """

    def earn(name: str, trace: int) -> float:
        return utility(task, simulate_totals(task, parse_policy(name), trace))

    earned = {name: earn(name, seed) for name in EXPERTS}
    best, first = max(EXPERTS, key=lambda name: earned[name]), EXPERTS[0]
    is_clear = earned[best] > earned[first] + _CLEARLY and all(
        earn(best, seed + other) > earn(first, seed + other) + _CLEARLY for other in range(1, _OTHER_TRACES + 1)
    )
    return best if is_clear else first, earned[best]


@dataclass(slots=True)
class _Entry:
    """One draw of the pool: its seeds, its best heuristic, what that earned, and how far the policy trailed last."""

    seed: int
    stage: float
    expert: str
    best: float
    gap: float


@dataclass(frozen=True, slots=True)
class Episode:
    """A world to be played, the seed of its draw and its trace, and the best heuristic there with what that earned.

    ``entry`` is its place in the pool; None for a new draw.
    """

    task: Task
    seed: int
    expert: str
    best: float
    entry: int | None


class Curriculum:
    """Says which episode, of so many requests, comes next, by a generator of its own; its state can be restored.

    ``only`` is the one task to play instead of draws, for a world that is known, with ``varies_load`` at other loads
    too. ``scenarios`` are tasks that take turns with draws, varied.

    Attributes:
        stage: how wide draws are, 0 to 1.
        practises: whether half of the episodes come from the pool, once there is one; else each is new.
    """

    def __init__(
        self,
        seed: int,
        *,
        requests: int = 600,
        only: Task | None = None,
        varies_load: bool = False,
        scenarios: Sequence[Task] = (),
    ) -> None:
        self._scenarios, self._varies_load = tuple(scenarios), varies_load
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC0DE]))
        self._requests = requests
        self._only = only
        self._pool: list[_Entry] = []
        self.stage = 0.0
        self.practises = True

    def begin_practice(self) -> None:
        """Let a pool grow anew: in the one there is others have played."""
        self._pool, self.practises = [], True

    def next_episode(self) -> Episode:
        """Return the episode to play next."""
        if self.practises and self._pool and self._rng.random() < 0.5:
            gaps = np.array([min(_MOST_GAP, max(0.0, entry.gap)) + 1e-3 for entry in self._pool])
            at = int(self._rng.choice(len(self._pool), p=gaps / gaps.sum()))
            entry = self._pool[at]
            return Episode(self._task(entry.seed, entry.stage), entry.seed, entry.expert, entry.best, at)
        seed = int(self._rng.integers(2**31))
        task = self._task(seed, self.stage)
        expert, best = best_expert(task, seed)
        return Episode(task, seed, expert, best, None)

    def note(self, episode: Episode, earned: float) -> None:
        """Remember what the policy earned in an episode."""
        gap = episode.best - earned
        if episode.entry is not None and self._pool[episode.entry].seed == episode.seed:
            self._pool[episode.entry].gap = gap
        elif episode.entry is None:
            entry = _Entry(episode.seed, self.stage, episode.expert, episode.best, gap)
            if len(self._pool) < _POOL:
                self._pool.append(entry)
            else:  # in place of the one that needs no more practice
                least = min(range(_POOL), key=lambda at: self._pool[at].gap)
                if self._pool[least].gap < gap:
                    self._pool[least] = entry

    def state(self) -> dict[str, Any]:
        """Return all of it, as JSON values."""
        return {
            "rng": self._rng.bit_generator.state,
            "stage": self.stage,
            "pool": [asdict(entry) for entry in self._pool],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was kept."""
        self._rng.bit_generator.state = state["rng"]
        self.stage = float(state["stage"])
        self._pool = [_Entry(**entry) for entry in state["pool"]]

    def _task(self, seed: int, stage: float) -> Task:
        if self._only is not None:
            return vary_load(self._only, seed) if self._varies_load else self._only
        which, turn = divmod(seed, 2)
        if self._scenarios and turn == 0:
            return vary_task(self._scenarios[which % len(self._scenarios)], seed, requests=self._requests)
        return draw_task(seed, stage=stage, requests=self._requests)
