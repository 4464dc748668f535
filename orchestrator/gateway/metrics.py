"""The gateway's own Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 8.192, 32.768)


class GatewayMetrics:
    """Counts requests and times answers; labels are bounded by what the fleet serves.

    A request for a model that nobody knows is counted under no model, so that a client can't make up series.

    Attributes:
        registry: of the metrics.
        in_flight: what is being answered now.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "slim_gateway_requests", "Inference requests answered.", ("model", "outcome"), registry=self.registry
        )
        labels = ("model", "width", "server")
        self._latency = Histogram(
            "slim_gateway_latency_seconds",
            "From the request to its answer, of requests that were answered.",
            labels,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._queue = Histogram(
            "slim_gateway_queue_seconds",
            "Of that, waiting in the router; of families only.",
            labels,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "slim_gateway_in_flight",
            "Inference requests being answered, and streams passed on.",
            registry=self.registry,
        )
        self.in_flight = 0
        # Looking a child up by its labels takes longer than counting; so they are kept.
        self._outcomes: dict[tuple[str, str], Counter] = {}
        self._timers: dict[tuple[str, str, str], tuple[Histogram, Histogram]] = {}

    def begin(self) -> None:
        """Note that a request came, or that a stream is passed on."""
        self.in_flight += 1
        self._in_flight.inc()

    def end(self) -> None:
        """Note that it was answered, one way or another."""
        self.in_flight -= 1
        self._in_flight.dec()

    def count(self, model: str, outcome: str) -> None:
        """Note how a request ended."""
        counter = self._outcomes.get((model, outcome))
        if counter is None:
            counter = self._outcomes[model, outcome] = self._requests.labels(model, outcome)
        counter.inc()

    def time(self, model: str, *, width: str, server: str, latency_s: float, queue_s: float | None) -> None:
        """Note how long an answer took; ``width`` is empty and ``queue_s`` None for models of no family."""
        key = (model, width, server)
        timers = self._timers.get(key)
        if timers is None:
            timers = self._timers[key] = (self._latency.labels(*key), self._queue.labels(*key))
        timers[0].observe(latency_s)
        if queue_s is not None:
            timers[1].observe(queue_s)
