"""Requests that go to one server together, and how their answers come apart again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.profile import EnergyLine
from orchestrator.router.queue.request import Answer, Array, BatchKey, PendingRequest
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.snapshot import BatchInFlight, ServedModel


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were sent together.

    Attributes:
        decision_id: The id of the decision that formed it.
        server: The server that runs it.
        model: The model that it runs on.
        key: The key of the request queue that it came from.
        requests: The requests in the order of their items in the batch; at least one.
        sent: How it counts in the server's load.
        energy: What batches of this model cost on this server; None when unknown.
        record: The decision for the log; None when it is not sampled.
    """

    decision_id: str
    server: ServerConnection
    model: ServedModel
    key: BatchKey
    requests: list[PendingRequest]
    sent: BatchInFlight
    energy: EnergyLine | None = None
    record: dict[str, Any] | None = None

    def input(self) -> Array:
        """Return the items of all requests, in order."""
        if len(self.requests) == 1:
            return self.requests[0].batch
        return np.concatenate([request.batch for request in self.requests])

    def answer(self, request: PendingRequest, output: Array, *, now_s: float) -> Answer:
        """Return the answer for one of the requests, whose part of the output is ``output``."""
        items = self.sent.items
        return Answer(
            output=(output[0] if request.is_single else output).copy(),  # not a view that keeps the whole batch
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
