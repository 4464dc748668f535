"""A group: requests that go to one server as one batch, and how their answers come apart again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.profile import EnergyLine
from orchestrator.router.queue.request import Answer, Array, BatchKey, PendingRequest
from orchestrator.router.servers.server_link import ServerLink
from orchestrator.snapshot import BatchInFlight, ServedModel


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were sent together.

    Attributes:
        decision_id: of the decision that formed it.
        link: to the server that runs it.
        model: it runs on.
        key: of the lane it came from.
        requests: in the order of their items in the batch; at least one.
        sent: how it counts in the server's load.
        energy: of groups of this model on this server; None when unknown.
        record: of the decision for the log; None when it is not sampled.
    """

    decision_id: str
    link: ServerLink
    model: ServedModel
    key: BatchKey
    requests: list[PendingRequest]
    sent: BatchInFlight
    energy: EnergyLine | None = None
    record: dict[str, Any] | None = None

    def batch(self) -> Array:
        """Return the items of all requests, in order."""
        if len(self.requests) == 1:
            return self.requests[0].batch
        return np.concatenate([request.batch for request in self.requests])

    def answer(self, request: PendingRequest, output: Array, *, now_s: float) -> Answer:
        """Return the answer for one of the requests, whose part of the output is ``output``."""
        items = self.sent.items
        return Answer(
            output=(output[0] if request.is_single else output).copy(),  # not a view that keeps the whole group
            labels=self.model.labels,
            server=self.link.name,
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
