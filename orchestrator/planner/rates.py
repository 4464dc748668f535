"""Counters of a model turned into rates over the window between two readings.

Triton's counters only grow, except that a restarted server and an unloaded model begin again at zero: a counter that
went down has been reset, and what it shows now is what happened since. The mean number of requests that waited comes
from Little's law: the seconds of waiting that were added, divided by the seconds of the window.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """One model's counters at one moment; all cumulative but ``pending_requests``.

    Attributes:
        requests: Requests that were answered with success.
        failures: Failures that the model or the server is to blame for; what a client cancelled or a full queue refused
            is not.
        queue_s: Time that requests spent waiting for an instance, summed over requests.
        service_s: Time requests spent being run (input, inference, output), summed over requests, so that a batch of
            eight requests adds eight times its own duration.
        pending_requests: Requests that wait for an instance right now.
    """

    requests: int = 0
    failures: int = 0
    items: int = 0
    executions: int = 0
    queue_s: float = 0.0
    service_s: float = 0.0
    pending_requests: int = 0


_TOTALS = ("requests", "failures", "items", "executions", "queue_s", "service_s")


@dataclass(frozen=True, slots=True)
class Rates:
    """What a model did in a window.

    Attributes:
        window_s: The length of the window; 0 when there was no earlier reading, and then all rates are 0.
        requests_per_s: Requests that were answered with success; the others are failures.
        waiting_requests: The mean of those that waited, or those that wait now, whichever is more.
        items_per_execution: The mean batch; None when nothing ran.
        service_s: Mean duration of the batch that a request ran in; None when nothing ran. Triton adds it up over
            requests, so where sizes differ large batches weigh more than their number.
    """

    window_s: float = 0.0
    requests_per_s: float = 0.0
    failures_per_s: float = 0.0
    items_per_s: float = 0.0
    executions_per_s: float = 0.0
    waiting_requests: float = 0.0
    items_per_execution: float | None = None
    service_s: float | None = None

    @property
    def busy_instances(self) -> float:
        """Instances that were running on average; too many where the sizes of batches differ, see ``service_s``."""
        return self.executions_per_s * (self.service_s or 0.0)


def measure_rates(before: Counters | None, after: Counters, window_s: float) -> Rates:
    """Return the rates between two readings ``window_s`` apart; no rates without an earlier reading."""
    if before is None or window_s <= 0:
        return Rates(waiting_requests=float(after.pending_requests))
    if any(getattr(after, name) < getattr(before, name) for name in _TOTALS):
        before = Counters()
    requests = after.requests - before.requests
    executions = after.executions - before.executions
    items = after.items - before.items
    waited = (after.queue_s - before.queue_s) / window_s
    return Rates(
        window_s=window_s,
        requests_per_s=requests / window_s,
        failures_per_s=(after.failures - before.failures) / window_s,
        items_per_s=items / window_s,
        executions_per_s=executions / window_s,
        waiting_requests=max(waited, float(after.pending_requests)),
        items_per_execution=items / executions if executions else None,
        service_s=(after.service_s - before.service_s) / requests if requests and executions else None,
    )
