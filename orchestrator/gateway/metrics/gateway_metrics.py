"""What a gateway counts and times, and how it is shown to Prometheus.

One table says what there is. Labels are bounded by what the fleet serves: a request for a model that nobody knows is
counted under no model, so that a client can't make up series; reasons are a handful of words of ours; servers that
left the fleet are forgotten after a while. A request costs half a microsecond to count and time (thirteen in
prometheus_client's multiprocess mode, see ``snapshot``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from prometheus_client import ProcessCollector

from orchestrator.gateway.metrics.snapshot import Labels, Measure, MetricSnapshot, observe
from orchestrator.router import RouterObserver
from orchestrator.snapshot import ServerName, Width
from orchestrator.telemetry.cpu_pressure import read_cpu_waiting_s

# Answers take from half a millisecond (a narrow width, an idle Triton) to what a deadline of seconds allows.
_LATENCY_BOUNDS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip

_ENDED = ("model", "width", "server", "outcome")
_REQUESTS = Measure(
    "slim_gateway_requests",
    "Inference requests that ended; width and server are those that ran it or, if late, had it last, else empty.",
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
_TRANSIT = Measure(
    "slim_gateway_transit_seconds",
    "Before a request was read and until its answer has left, because this host is busy; of families only, estimated.",
    bounds=_LATENCY_BOUNDS_S, kind="histogram",
)  # fmt: skip
_IN_FLIGHT = Measure(
    "slim_gateway_in_flight", "Inference requests being answered, and streams passed on.", kind="gauge"
)
FOREIGN_MODELS = Measure(
    "slim_gateway_foreign_models",
    "Processes that refuse a model of a server because its weights are not those that most servers have.",
    ("server", "model"),
    kind="gauge",
)
TASKS = Measure("slim_gateway_tasks", "Tasks of asyncio in the processes that take requests.", kind="gauge")
LOOP_LAG = Measure(
    "slim_gateway_loop_lag_seconds",
    "How long what has happened waits for the event loop, of the process in which it waits longest.",
    kind="largest",
)
_CPU_WAITING = Measure(
    "slim_gateway_cpu_waiting_seconds",
    "Time so far in which a process of this host waited for a core, as the kernel counts it (PSI).",
    kind="largest",
)
# A rule over a handful of candidates takes some ten microseconds, and what takes milliseconds delays everybody.
_POLICY_BOUNDS_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1)

_POLICY = Measure(
    "slim_router_policy_seconds", "What the policy took for a decision.", bounds=_POLICY_BOUNDS_S, kind="histogram"
)
_FALLBACKS = Measure(
    "slim_router_fallbacks", "Decisions that the fallback took in place of the policy, by why.", ("reason",)
)
_SHADOW = Measure(
    "slim_router_shadow_decisions",
    "Decisions that the shadow policy was asked about, by how it compared.",
    ("outcome",),
)
_SHEDS = Measure("slim_router_sheds", "Requests that were given up because of load, by why.", ("reason",))
_RETRIES = Measure(
    "slim_router_retries", "Requests that wait for another attempt after one on that server.", ("server",)
)
_HEDGES = Measure(
    "slim_router_hedges", "Requests of which a second copy waits while that server has the first.", ("server",)
)
_EJECTIONS = Measure(
    "slim_router_ejections", "How often a server, or a width on it, was taken out, by why.", ("server", "reason")
)
GROUPS = Measure("slim_router_groups_in_flight", "Groups sent and not answered.", ("server",), kind="gauge")
QUEUED = tuple(
    Measure(f"slim_router_queue_{what}", f"{words} that wait in the router.", kind="gauge")
    for what, words in (("requests", "Requests"), ("items", "Items"), ("bytes", "Bytes of tensors"))
)
_TENANTS = Measure(
    "slim_gateway_tenant_requests",
    "Inference requests of callers with a token that ended, streams' requests included.",
    ("tenant", "model", "outcome"),
)
_FOR_PEERS = Measure(
    "slim_gateway_peer_requests", "Requests that other gateways have passed on to this one, by how they ended.",
    ("outcome",),
)  # fmt: skip
_HOPS = Measure("slim_gateway_hops", "Requests that this gateway has passed on to others, repeated ones included.")
DRIVEN = Measure(
    "slim_gateway_drives", "Processes that send batches to a server, of a shared fleet.", ("server",), kind="gauge"
)
PEERS = Measure("slim_gateway_peers", "Other gateways that share the fleet and live, in all processes.", kind="gauge")
_UNAUTHENTICATED = Measure("slim_gateway_unauthenticated", "Calls of any kind without a token that is known.")
TASK_FAILURES = Measure(
    "slim_background_failures", "How often work in the background failed unexpectedly and began again.", ("task",)
)
WORKERS = Measure("slim_gateway_workers", "Worker processes that take requests.", kind="gauge")
WORKER_RESTARTS = Measure("slim_gateway_worker_restarts", "Workers that died and were started again.")
LEFT_OUT = Measure(
    "slim_router_servers_left_out",
    "Processes that send a server nothing, because it does not answer or is ejected.",
    ("server",),
    kind="gauge",
)
SERVER_INFO = Measure(
    "slim_router_server_info", "1 for a server with a device class.", ("server", "device_class"), kind="largest"
)
POLICY_INFO = Measure(
    "slim_router_policy_info", "1 for the policies in force.", ("policy", "fallback", "shadow"), kind="largest"
)
POLICY_SINCE = Measure(
    "slim_router_policy_since_seconds",
    "Since when a policy is in force, since 1970, and why.",
    ("policy", "why"),
    kind="largest",
)
ROLLOUT = Measure(
    "slim_router_rollout_share_ratio",
    "Part of the time in which the policy of a changed file decides, by where it stands.",
    ("candidate", "stage"),
    kind="largest",
)
BUILD_INFO = Measure("slim_build_info", "1 for what runs.", ("version", "commit", "python"), kind="largest")
# prometheus_client's own, of all processes together.
_PROCESS = (
    Measure("process_cpu_seconds", "User and system CPU time of all processes."),
    Measure("process_resident_memory_bytes", "Resident memory of all processes.", kind="gauge"),
    Measure("process_open_fds", "Open file descriptors of all processes.", kind="gauge"),
    Measure("process_start_time_seconds", "When the youngest process began, since 1970.", kind="largest"),
)

MEASURES = {
    m.name: m
    for m in (
        *(_REQUESTS, _LATENCY, _QUEUE, _SERVICE, _TRANSIT, _IN_FLIGHT, FOREIGN_MODELS, TASKS, LOOP_LAG),
        _CPU_WAITING,
        *(_POLICY, _FALLBACKS, _SHADOW, _SHEDS, _RETRIES, _HEDGES, _EJECTIONS, GROUPS, *QUEUED),
        *(_FOR_PEERS, _HOPS, DRIVEN, PEERS),
        *(_TENANTS, _UNAUTHENTICATED, TASK_FAILURES, WORKERS, WORKER_RESTARTS),
        *(LEFT_OUT, SERVER_INFO, POLICY_INFO, POLICY_SINCE, ROLLOUT, BUILD_INFO, *_PROCESS),
    )
}
"""All there is, by name, in the order of the page."""

_COLLECTOR = ProcessCollector(registry=None)


def read_process() -> MetricSnapshot:
    """Return what this process takes, and what its host lacks; nothing where there is no /proc."""
    found = {family.name: family.samples[0].value for family in _COLLECTOR.collect()}
    snapshot = MetricSnapshot({one.name: {(): [found[one.name]]} for one in _PROCESS if one.name in found})
    if (waiting_s := read_cpu_waiting_s()) is not None:
        snapshot.put(_CPU_WAITING, waiting_s)
    return snapshot


DEPARTED_S = 900.0
"""How long a server's metrics are shown after it has left the fleet: long enough for all who read them."""


class DepartedServers:
    """Since when servers are not in the fleet, so that names that never come back don't add up."""

    def __init__(self, keep_s: float = DEPARTED_S) -> None:
        self._keep_s = keep_s
        self._since_s: dict[str, float] = {}

    def expired(self, absent: Collection[str], now_s: float) -> set[str]:
        """Return those of ``absent``, all that are absent now, that have been so at each call for ``keep_s``."""
        self._since_s = {server: self._since_s.get(server, now_s) for server in absent}
        return {server for server, since_s in self._since_s.items() if now_s - since_s >= self._keep_s}


class GatewayMetrics:
    """Counts requests and times answers in one process.

    Attributes:
        in_flight: The number of inferences and streams that are being answered now.
        router: What counts the router's events.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._for_peers = 0
        self._live = MetricSnapshot({name: {} for name in MEASURES})
        self.router = RouterMetrics(self._live)
        self._unauthenticated = self._live.numbers(_UNAUTHENTICATED)
        self._transit = self._live.numbers(_TRANSIT)
        # Of requests that ended alike; found once instead of by each metric.
        self._timed: dict[Labels, tuple[list[float], list[float]]] = {}
        self._queued: dict[Labels, tuple[list[float], list[float]]] = {}
        # A supervisor hides them earlier: workers don't forget at one time, and a sum that shrinks reads as a restart.
        self._departed = DepartedServers(2 * DEPARTED_S)

    def begin(self, *, is_for_peer: bool = False) -> None:
        """Note that a request came, or that a stream is passed through; one of a peer's counts as in flight there."""
        self.in_flight += 1
        self._for_peers += is_for_peer

    def end(self, *, is_for_peer: bool = False) -> None:
        """Note that it was answered, one way or another."""
        self.in_flight -= 1
        self._for_peers -= is_for_peer

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Note that a request or stream is being answered as long as this lasts."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def count(self, model: str, outcome: str, *, tenant: str | None = None) -> None:
        """Note a request whose end is not timed."""
        self._live.numbers(_REQUESTS, (model, "", "", outcome))[0] += 1
        self._count_tenant(tenant, model, outcome)

    def count_for_peer(self, outcome: str) -> None:
        """Note how a request of another gateway's ended."""
        self._live.numbers(_FOR_PEERS, (outcome,))[0] += 1

    def count_hop(self) -> None:
        """Note that a request is passed on to another gateway."""
        self._live.numbers(_HOPS)[0] += 1

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
        """Note how a request ended: seconds from its arrival to its end, of which ``queue_s`` in the router.

        ``outcome`` is a word of ``statuses``. The model is empty when nobody has it, width and server when none ran it
        and, if it is late, none had it; ``queue_s`` is None for models of no family.
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

    def time_transit(self, transit_s: float) -> None:
        """Note how much of a request's time passes before it is read, and on its answer's way out."""
        observe(self._transit, _LATENCY_BOUNDS_S, transit_s)

    def forget_departed(self, present: Collection[str], now_s: float) -> None:
        """Drop what is counted by servers that left the fleet long ago and have answered all.

        Args:
            present: The names of those that are in the fleet.
            now_s: The time on a clock that nobody sets.
        """
        busy = {server for (server,), (sent,) in self._live.values[GROUPS.name].items() if sent}
        if gone := self._departed.expired(self._live.named("server", MEASURES) - busy - set(present), now_s):
            self._live.forget("server", gone, MEASURES)
            self._timed.clear()
            self._queued.clear()

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
        snapshot = MetricSnapshot({_IN_FLIGHT.name: {(): [float(self.in_flight - self._for_peers)]}})
        snapshot.add(self._live, MEASURES)
        return snapshot


class RouterMetrics(RouterObserver):
    """Counts the events of a router in a snapshot."""

    def __init__(self, live: MetricSnapshot) -> None:
        self._live = live
        self._policy = live.numbers(_POLICY)

    def on_background_failure(self, task: str) -> None:
        """Count work in the background that failed unexpectedly, of the router or of its gateway."""
        self._count(TASK_FAILURES, task)

    def on_decision(self, policy_s: float) -> None:
        """Add a decision to the histogram of what the policy takes."""
        observe(self._policy, _POLICY_BOUNDS_S, policy_s)

    def on_fallback(self, reason: str) -> None:
        """Count a decision of the fallback by its reason."""
        self._count(_FALLBACKS, reason)

    def on_shadow(self, outcome: str) -> None:
        """Count a decision of the shadow policy by how it compared."""
        self._count(_SHADOW, outcome)

    def on_shed(self, reason: str, items: int) -> None:
        """Count a request that was given up by its reason."""
        self._count(_SHEDS, reason)

    def on_sent(self, server: ServerName, width: Width, items: int) -> None:
        """Count a batch as under way at its server."""
        self._count(GROUPS, server)

    def on_ended(self, server: ServerName, width: Width, items: int) -> None:
        """Count a batch no more as under way at its server."""
        self._count(GROUPS, server, amount=-1.0)

    def on_retry(self, server: ServerName) -> None:
        """Count a request that waits for another attempt."""
        self._count(_RETRIES, server)

    def on_hedge(self, server: ServerName) -> None:
        """Count a request of which a second copy waits."""
        self._count(_HEDGES, server)

    def on_wrong_answer(self, server: ServerName, width: Width) -> None:
        """Count an ejection for a wrong answer."""
        self._count(_EJECTIONS, server, "wrong")

    def on_ejection(self, server: ServerName, reason: str) -> None:
        """Count an ejection by its reason."""
        self._count(_EJECTIONS, server, reason)

    def _count(self, measure: Measure, *labels: str, amount: float = 1.0) -> None:
        self._live.numbers(measure, labels)[0] += amount
