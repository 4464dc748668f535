"""When one server should start a batch: the optimum, and what any rule costs, as a semi-Markov decision process.

One server of one width, Poisson arrivals, no deadline; a batch of b takes a known time and known joules. With q waiting
the server may start any b ≤ q or wait for one more arrival. What is least is the average of

    response time (s)  +  worth · power above idle (W)

over time without end, as in SMDP batching (arXiv 2301.12865 and 2501.02181; our implementation). By Little's law the
first is the mean number in the system over the rate, so both are costs that run on with time. The papers find the
optimum by relative value iteration; we iterate policies, because each step is one linear system and some ten steps end
it exactly. The optimum mostly is a control limit, the rule that ``control-limit`` follows in a router: so this says
which limit to give it, and how much is lost by starting at once.

Queues are cut off where they are ``most`` long. Service times are taken for certain: noise costs a little more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError

Floats = NDArray[np.float64]
_MOST_STEPS = 100
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class BatchControl:
    """A rule for one server, with its mean response and power above idle, and the cost, response_s + worth · power_w.

    ``batch`` says how many are started with so many waiting, by queue length from 0; 0: it waits.
    """

    batch: tuple[int, ...]
    response_s: float
    power_w: float
    cost: float

    @property
    def limit(self) -> int:
        """The queue length from which on a batch is started."""
        return next(q for q, b in enumerate(self.batch) if b > 0)


class BatchServer:
    """One server of one width at a rate of Poisson arrivals.

    Times and joules, above idle, are of a batch of 1, 2, … items; ``most`` is the longest queue that has its own state.

    Raises:
        ConfigError: when the server can't serve the rate.
    """

    def __init__(
        self, service_s: Sequence[float], energy_j: Sequence[float], rate_rps: float, *, most: int | None = None
    ) -> None:
        most_rps = max(n / t for n, t in enumerate(service_s, start=1))
        if not 0 < rate_rps < most_rps:
            raise ConfigError(f"a rate of {rate_rps:g} items/s is not above 0 and below the {most_rps:g} of the server")
        self._service_s, self._energy_j, self._rate_rps = tuple(service_s), tuple(energy_j), rate_rps
        self._most = most or max(4 * len(service_s), 64)
        self._after = [_arrivals(rate_rps * t, self._most) for t in service_s]

    def greedy(self) -> tuple[int, ...]:
        """Return the rule that starts what waits as soon as the server is free."""
        return self.with_limit(1)

    def with_limit(self, limit: int) -> tuple[int, ...]:
        """Return the rule that starts as much as fits when at least so many wait."""
        return tuple(min(q, len(self._service_s)) if q >= limit else 0 for q in range(self._most + 1))

    def evaluate(self, batch: Sequence[int], *, worth: float) -> BatchControl:
        """Return a rule with what it costs, a watt as much as ``worth`` seconds of response.

        The rule's batches are by queue length from 0; the last ones must start something.
        """
        (response_s, _), (power_w, _) = self._average(batch, 1.0, 0.0), self._average(batch, 0.0, 1.0)
        return BatchControl(tuple(batch), response_s, power_w, response_s + worth * power_w)

    def optimum(self, *, worth: float) -> BatchControl:
        """Return the rule of the least cost."""
        batch = self.greedy()
        for _ in range(_MOST_STEPS):
            cost, value = self._average(batch, 1.0, worth)
            better = self._improve(batch, worth, cost, value)
            if better == batch:
                break
            batch = better
        return self.evaluate(batch, worth=worth)

    def _stage(self, queue: int, batch: int, response: float, power: float) -> tuple[float, float, Floats]:
        """Return the cost and the time of one decision and the chances of the queue after it."""
        if batch == 0:
            following = np.zeros(self._most + 1)
            following[queue + 1] = 1.0
            time_s = 1 / self._rate_rps
            return response * queue / self._rate_rps * time_s, time_s, following
        time_s = self._service_s[batch - 1]
        present = queue * time_s + self._rate_rps * time_s * time_s / 2
        cost = response * present / self._rate_rps + power * self._energy_j[batch - 1]
        left = queue - batch
        following = np.zeros(self._most + 1)
        chances = self._after[batch - 1]
        following[left:] = chances[: self._most + 1 - left]
        following[-1] += chances[self._most + 1 - left :].sum()
        return cost, time_s, following

    def _average(self, batch: Sequence[int], response: float, power: float) -> tuple[float, Floats]:
        """Return the mean cost of a rule over time, and the relative value of each queue length.

        From v(q) = cost − g·time + Σ P·v with v(0) = 0.
        """
        size = self._most + 1
        matrix, costs = np.eye(size), np.zeros(size)
        for queue, size_of_batch in enumerate(batch):
            cost, time_s, following = self._stage(queue, size_of_batch, response, power)
            matrix[queue] -= following
            costs[queue] = cost
            matrix[queue, 0] = time_s  # in place of v(0), which is 0, the mean cost is asked for
        solved = np.linalg.solve(matrix, costs)
        value = solved.copy()
        value[0] = 0.0
        return float(solved[0]), value

    def _improve(self, batch: Sequence[int], worth: float, mean: float, value: Floats) -> tuple[int, ...]:
        improved = []
        for queue, present in enumerate(batch):
            # A queue that is cut off does not wait, and none starts nothing.
            allowed = range(0 if queue < self._most else 1, min(queue, len(self._service_s)) + 1)
            totals = {}
            for action in allowed:
                cost, time_s, following = self._stage(queue, action, 1.0, worth)
                totals[action] = cost - mean * time_s + float(following @ value)
            best = min(totals, key=lambda action: totals[action])
            # What is not better by more than rounding stays, else rules of equal cost would take turns.
            rounding = _TINY * max(1.0, abs(totals[present]))
            improved.append(best if totals[best] < totals[present] - rounding else present)
        return tuple(improved)


def _arrivals(mean: float, most: int) -> Floats:
    """Return the chances of 0, 1, … ``most`` Poisson arrivals, the last one those of that many or more."""
    counts = np.arange(most + 1)
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in counts])
    chances = np.exp(logs)
    chances[-1] += max(0.0, 1.0 - chances.sum())
    return np.asarray(chances)
