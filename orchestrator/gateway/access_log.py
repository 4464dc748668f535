"""The access log: a line for each inference that ended, with what finds it elsewhere.

The request's id is the client's, and the decision's id is that of ``slimsched why``. Unlike with metrics, nothing is
bounded by what the fleet serves: a model that nobody has is written as it was asked for, cut to a length that fits a
line. So is the id. A line costs some ten microseconds, which is why it is off unless ``gateway.access_log`` is set.
"""

from __future__ import annotations

import logging

from orchestrator.gateway.auth.callers import Caller
from orchestrator.router import Answer

log = logging.getLogger(__name__)

_MOST_CHARACTERS = 200


def write_access(
    model: str,
    outcome: str,
    caller: Caller,
    *,
    request_id: str,
    latency_s: float | None = None,
    server: str | None = None,
    answer: Answer | None = None,
) -> None:
    """Write a line about an inference that ended; times are in seconds, as in the metrics."""
    ran = {} if answer is None else {
        "server": answer.server,
        "width": answer.width,
        "batch": answer.batch,
        "queue_s": round(answer.queue_s, 6),
        "decision_id": answer.decision_id,
        "policy": answer.policy,
    }  # fmt: skip
    fields = {
        "request_id": request_id[:_MOST_CHARACTERS] or None,
        "tenant": caller.tenant,
        "address": caller.address or None,
        "model": model[:_MOST_CHARACTERS],
        "outcome": outcome,
        "latency_s": None if latency_s is None else round(latency_s, 6),
        "server": server or None,
        **ran,
    }
    log.info("request", extra={"fields": fields})
