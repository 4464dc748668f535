"""Requests that go to one server together: how many of them, and how their answers come apart again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.profile.fit import EnergyLine
from orchestrator.router.queue.request import Answer, BatchKey, PendingRequest
from orchestrator.router.queue.trace import Attempt
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.snapshot import SHORT_S, BatchInFlight, ServedModel
from orchestrator.triton.infer_wire import Tensors

_FEWEST = 8
"""Of one fit with batches of the same size nothing is known of b, and each part costs the router a decision."""


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that are sent together, once.

    Attributes:
        key: The key of the request queue that it came from.
        requests: The requests in the order of their items in the batch; at least one.
        sent: How it counts in the server's load.
        energy: What batches of this model cost on this server; None when unknown.
        record: The decision for the log; None when it is not sampled.
        expected_s: Seconds to its answer as they were expected; 0 when nobody held them against a deadline.
        decided_s: When they were.
        margin: How many times that its answer was allowed to take.
        outputs: The server's answer, once it is sent.
        is_given_up: Whether its requests no longer wait for it.
        is_overdue: Whether it has taken far longer than was expected.
        due_s: When it is looked at next; infinite while nobody watches it.
        attempts: What is noted of it for its requests that are traced.
        stages: What happens to it while it is not answered, the next one last, and when.
    """

    decision_id: str
    server: ServerConnection
    model: ServedModel
    key: BatchKey
    requests: list[PendingRequest]
    sent: BatchInFlight
    energy: EnergyLine | None = None
    record: dict[str, Any] | None = None
    expected_s: float = 0.0
    decided_s: float = 0.0
    margin: float = 1.0
    outputs: asyncio.Future[Tensors] = field(init=False, repr=False)
    is_given_up: bool = False
    is_overdue: bool = False
    due_s: float = math.inf
    attempts: list[Attempt] = field(default_factory=list, repr=False)
    stages: list[tuple[float, Callable[[Batch], None]]] = field(default_factory=list, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether the server has answered, or will not any more."""
        return self.outputs.done()

    def inputs(self) -> Tensors:
        """Return the items of all requests, in order."""
        if len(self.requests) == 1:
            return self.requests[0].batch
        return tuple(map(np.concatenate, zip(*[request.batch for request in self.requests], strict=True)))

    def answer(self, request: PendingRequest, outputs: Tensors, *, now_s: float) -> Answer:
        """Return the answer for one of the requests, whose part of the outputs is ``outputs``."""
        items = self.sent.items
        return Answer(
            outputs={  # no views, which would keep the whole batch
                spec.name: (output[0] if request.is_single else output).copy()
                for spec, output in zip(self.model.outputs, outputs, strict=True)
            },
            labels=self.model.labels,
            server=self.server.name,
            width=self.model.width,
            batch=items,
            queue_s=self.sent.sent_s - request.arrived_s,
            latency_s=now_s - request.arrived_s,
            deadline_met=now_s <= request.deadline_s,
            expected_accuracy=self.model.accuracy,
            decision_id=self.decision_id,
            policy=request.policy,
            energy_j=None if self.energy is None else self.energy.of_batch(items) * request.items / items,
        )


def part_of(waiting: int, free: int, per_item_s: float, fixed_s: float) -> int:
    """Return how many of the items that wait, all of which one batch may hold, go into the next batch.

    A server that is given all at once idles while the answers travel to the callers and their next requests back; and
    callers that are answered together ask together again, so it goes on like that. So what waits is spread evenly over
    the ``free`` batches that the server may still be sent: while one runs, another one's answers are on their way.
    Where batches wait for each other in Triton its own batcher joins them again. A simulator has no use for it, because
    nothing travels there.

    That is worth it where a batch takes no more than some turn-arounds; an idle millisecond in a hundred is not. And no
    part is so small that its fixed cost is more than that of its items. ``per_item_s`` is 0 while unknown.
    """
    if per_item_s <= 0 or per_item_s * waiting + fixed_s > SHORT_S or fixed_s >= per_item_s * waiting:
        return waiting
    fewest = max(_FEWEST, math.ceil(fixed_s / per_item_s))
    return min(waiting, max(fewest, math.ceil(waiting / free)))
