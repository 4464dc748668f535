"""Groups of worlds that share a trace, and the rollouts that a network plays in them on every core.

The worlds of a group begin each rollout as one of them was, drawn at random, at the end of the last: from the same
state and with the same arrivals ahead, what becomes of them differs by what the network did, and their mean is what the
state and the arrivals were worth. Which choices were good shows within the rollout, or in what the critic expects
behind it.

Each thread has groups of its own. A group whose trace ends begins another.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

from orchestrator.policies.learned.network import Floats32, pack, untrained
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.rollouts import Rollout, RolloutBatch, new_rollout
from orchestrator.simulation.scenario.trace import Trace
from orchestrator.simulation.world_batch import lines_of

_MOST_CHOICES = 2048  # of a world in a rollout
_PILOT = 8.0  # deadlines
_SURE = 50.0  # strength at which the base's choice is taken
_SPARE = 1.5  # room for busier times than the pilot's
_MOST_GROUPS = 64

DrawTrace = Callable[[int], Trace]
"""Returns the trace of a number."""


class Groups:
    """Groups that a network explores, ``threads`` of them at a time.

    Args:
        task: the fleet, and what is asked of it.
        draw: gives traces, by number from 0 on.
        base: the policy that the network rests on.
        replicas: worlds of a group.
        segment: deadlines of a rollout.
        choices: of a rollout, over all worlds; there are as many groups as that takes.
        seed: of all that is drawn here.
    """

    def __init__(
        self,
        task: Task,
        draw: DrawTrace,
        *,
        base: str,
        replicas: int = 8,
        segment: float = 8.0,
        choices: int = 65_536,
        threads: int = 2,
        seed: int = 0,
    ) -> None:
        self._task, self._draw, self._segment = task, draw, segment
        self.replicas, self.threads = replicas, threads
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 0x6209]))
        self._number = 0
        self.lines = lines_of(task)
        per_world = self._pilot(base) * segment
        self._room = int(min(_MOST_CHOICES, max(16, _SPARE * per_world)))
        groups = choices / (replicas * min(self._room, max(1.0, per_world)))
        own = max(1, int(min(_MOST_GROUPS, max(threads, groups)) / threads + 0.5))  # groups of a thread
        self._batches = [RolloutBatch(own * replicas, base=base, holds_on=True) for _ in range(threads)]
        self._rollouts = [new_rollout(own * replicas, self._room, lines=self.lines) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rollout")
        self._running: list[Future[float]] = []
        for batch in self._batches:
            for first in range(0, batch.worlds, replicas):
                self._begin(batch, first)

    def start(self, weights: dict[str, Floats32], strength: float) -> None:
        """Let the network of these weights play rollouts, over those of the last time."""
        params = pack(weights)
        for batch, rollout in zip(self._batches, self._rollouts, strict=True):
            until = self._arrange(batch, rollout)
            draws = self._rng.random(rollout.actions.shape, np.float32)
            self._running.append(self._pool.submit(_play, batch, params, strength, until, draws, rollout))

    @property
    def is_started(self) -> bool:
        """Whether there are rollouts to finish."""
        return bool(self._running)

    def finish(self) -> tuple[list[Rollout], float]:
        """Return what was played, of each thread, until the next start, and the seconds of the slowest thread."""
        running, self._running = self._running, []
        return self._rollouts, max(one.result() for one in running)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _arrange(self, batch: RolloutBatch, last: Rollout) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Let each group begin as one; return until when each world is to run."""
        until = np.full(batch.worlds, self._segment)
        if not last.counts.any() and not last.ended.any():  # it is the first one
            return until
        for first in range(0, batch.worlds, self.replicas):
            group = slice(first, first + self.replicas)
            if last.ended[group].any():
                self._begin(batch, first)
                continue
            source = first + int(self._rng.integers(self.replicas))
            batch.resemble(source, first, self.replicas)
            until[group] = last.times[source, last.counts[source]] + self._segment
        return until

    def _begin(self, batch: RolloutBatch, first: int) -> None:
        batch.load(first, self._task, self._draw(self._number))
        batch.resemble(first, first, self.replicas)
        self._number += 1

    def _pilot(self, base: str) -> float:
        """Return how many choices a world comes to in the time of a deadline, under the base policy."""
        batch, rollout = RolloutBatch(1, base=base, holds_on=True), new_rollout(1, _MOST_CHOICES, lines=self.lines)
        batch.load(0, self._task, self._draw(0))
        draws = np.full(rollout.actions.shape, 0.5, np.float32)
        batch.collect(pack(untrained()), _SURE, np.array([_PILOT]), draws, rollout)
        count = int(rollout.counts[0])
        return count / max(1e-3, float(rollout.times[0, count]))


def _play(batch: RolloutBatch, *rest: Any) -> float:
    """Return the seconds that a rollout took."""
    began_s = perf_counter()
    batch.collect(*rest)
    return perf_counter() - began_s
