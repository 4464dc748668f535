"""What a gateway counts and times, and how it is shown to Prometheus.

One table says what there is. Labels are bounded by what the fleet serves: a request for a model that nobody knows is
counted under no model, so that a client can't make up series. A request costs half a microsecond to count and time
(thirteen in prometheus_client's multiprocess mode, see ``snapshot``).
"""

from __future__ import annotations

from orchestrator.gateway.metrics.router_metrics import MEASURES as ROUTER_MEASURES
from orchestrator.gateway.metrics.router_metrics import RouterMetrics
from orchestrator.gateway.metrics.snapshot import Labels, Measure, MetricSnapshot, observe

# Answers take from half a millisecond (a narrow width, an idle Triton) to what a deadline of seconds allows.
_LATENCY_BOUNDS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip

_ENDED = ("model", "width", "server", "outcome")
_REQUESTS = Measure(
    "slim_gateway_requests",
    "Inference requests that ended; width and server are those that ran it, empty when none did.",
    _ENDED,
)
_LATENCY = Measure(
    "slim_gateway_latency_seconds", "From the request to its end, whatever it was.", _ENDED, _LATENCY_BOUNDS_S,
    "histogram",
)  # fmt: skip
_QUEUE = Measure(
    "slim_gateway_queue_seconds", "Of that, waiting in the router; of families only.", _ENDED, _LATENCY_BOUNDS_S,
    "histogram",
)  # fmt: skip
_SERVICE = Measure(
    "slim_gateway_service_seconds", "Of that, all but waiting in the router; of families only.", _ENDED,
    _LATENCY_BOUNDS_S, "histogram",
)  # fmt: skip
_IN_FLIGHT = Measure(
    "slim_gateway_in_flight", "Inference requests being answered, and streams passed on.", kind="gauge"
)
TASKS = Measure("slim_gateway_tasks", "Tasks of asyncio in the processes that take requests.", kind="gauge")
_TENANTS = Measure(
    "slim_gateway_tenant_requests",
    "Inference requests of callers with a token that ended, streams' requests included.",
    ("tenant", "model", "outcome"),
)
_UNAUTHENTICATED = Measure("slim_gateway_unauthenticated", "Calls of any kind without a token that is known.")
WORKERS = Measure("slim_gateway_workers", "Worker processes that take requests.", kind="gauge")
WORKER_RESTARTS = Measure("slim_gateway_worker_restarts", "Workers that died and were started again.")

MEASURES = {
    m.name: m
    for m in (
        *(_REQUESTS, _LATENCY, _QUEUE, _SERVICE, _IN_FLIGHT, TASKS),
        *ROUTER_MEASURES,
        *(_TENANTS, _UNAUTHENTICATED, WORKERS, WORKER_RESTARTS),
    )
}
"""All there is, by name, in the order of the page."""


class GatewayMetrics:
    """Counts requests and times answers in one process.

    Attributes:
        in_flight: The number of inferences and streams that are being answered now.
        router: What counts the router's events.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._live = MetricSnapshot({name: {} for name in MEASURES})
        self.router = RouterMetrics(self._live)
        self._unauthenticated = self._live.numbers(_UNAUTHENTICATED)
        # Of requests that ended alike; found once instead of by each metric.
        self._timed: dict[Labels, tuple[list[float], list[float]]] = {}
        self._queued: dict[Labels, tuple[list[float], list[float]]] = {}

    def begin(self) -> None:
        """Note that a request came, or that a stream is passed through."""
        self.in_flight += 1

    def end(self) -> None:
        """Note that it was answered, one way or another."""
        self.in_flight -= 1

    def count(self, model: str, outcome: str, *, tenant: str | None = None) -> None:
        """Note a request whose end is not timed."""
        self._live.numbers(_REQUESTS, (model, "", "", outcome))[0] += 1
        self._count_tenant(tenant, model, outcome)

    def count_unauthenticated(self) -> None:
        """Note a call without a token that is known."""
        self._unauthenticated[0] += 1

    def time(
        self,
        model: str,
        outcome: str,
        *,
        tenant: str | None = None,
        latency_s: float,
        width: str = "",
        server: str = "",
        queue_s: float | None,
    ) -> None:
        """Note how a request ended.

        Args:
            model: The model that was asked for; empty when nobody has it.
            outcome: How it ended, in a word of ``statuses``.
            tenant: The tenant that sent it; None when nobody has to say who they are.
            latency_s: Seconds from its arrival to its end.
            width: The width that ran it; empty when none did, or the model has no widths.
            server: The server that ran it; empty when none did.
            queue_s: Seconds that it waited in the router; None for models of no family.
        """
        labels = (model, width, server, outcome)
        requests, latency = self._timed.get(labels) or self._pair(self._timed, labels, _REQUESTS, _LATENCY)
        requests[0] += 1
        observe(latency, _LATENCY_BOUNDS_S, latency_s)
        if queue_s is not None:
            queue, service = self._queued.get(labels) or self._pair(self._queued, labels, _QUEUE, _SERVICE)
            observe(queue, _LATENCY_BOUNDS_S, queue_s)
            observe(service, _LATENCY_BOUNDS_S, latency_s - queue_s)
        self._count_tenant(tenant, model, outcome)

    def _pair(
        self, kept: dict[Labels, tuple[list[float], list[float]]], labels: Labels, first: Measure, second: Measure
    ) -> tuple[list[float], list[float]]:
        found = kept[labels] = self._live.numbers(first, labels), self._live.numbers(second, labels)
        return found

    def _count_tenant(self, tenant: str | None, model: str, outcome: str) -> None:
        if tenant is not None:
            self._live.numbers(_TENANTS, (tenant, model, outcome))[0] += 1

    def snapshot(self) -> MetricSnapshot:
        """Return a copy of all that was counted here."""
        snapshot = MetricSnapshot({_IN_FLIGHT.name: {(): [float(self.in_flight)]}})
        snapshot.add(self._live, MEASURES)
        return snapshot
