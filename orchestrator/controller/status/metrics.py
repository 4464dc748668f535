"""A controller's Prometheus metrics.

Gauges are drawn from the last report when they are scraped, so that a model or refusal that is gone leaves nothing
behind; counters and histograms grow as reports come in. What is unknown is left out, never 0: an absent power metric
and a host that draws nothing must not look alike. Everything lives in a registry of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.controller.report import ActionRecord, StepReport
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.reading import HostReading, Reading

# A plan is to take well below a millisecond, a step some milliseconds; beyond a second both are broken.
_PLAN_BUCKETS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 1e-1, 1.0)
_STEP_BUCKETS_S = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class ControllerMetrics:
    """The metrics of one server's controller.

    Args:
        server: that they are labelled with.
        failed_steps: returns how many steps have failed unexpectedly, and so have no report.
    """

    def __init__(self, server: ServerName, *, failed_steps: Callable[[], int] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        self._server = server
        self._counted: frozenset[ActionRecord] = frozenset()
        self._collector = _ReportCollector(server, failed_steps)
        self.registry.register(self._collector)
        label = ("server",)
        self._actions = Counter(
            "slim_controller_actions",
            "Actions that ended, by what became of them.",
            ("server", "kind", "reason", "outcome"),
            registry=self.registry,
        )
        self._failures = Counter(
            "slim_controller_step_failures",
            "Steps in which Triton or its metrics could not be read.",
            label,
            registry=self.registry,
        ).labels(server)
        self._plan = Histogram(
            "slim_controller_plan_seconds",
            "Time to make a plan.",
            label,
            buckets=_PLAN_BUCKETS_S,
            registry=self.registry,
        ).labels(server)
        self._step = Histogram(
            "slim_controller_step_seconds",
            "Time a step takes without its actions.",
            label,
            buckets=_STEP_BUCKETS_S,
            registry=self.registry,
        ).labels(server)

    def observe(self, report: StepReport) -> None:
        """Take in the report of a step; each action is counted once, in the step after which it has ended."""
        ended = frozenset(record for record in report.recent if not record.is_under_way)
        for record in ended - self._counted:
            outcome = "ok" if record.error is None else "failed"
            action = record.action
            self._actions.labels(self._server, action.kind.value, action.reason.value, outcome).inc()
        self._counted = ended
        if report.trouble is not None:
            self._failures.inc()
        if report.plan is not None:
            self._plan.observe(report.plan_s)
        self._step.observe(report.step_s)
        self._collector.report = report


class _ReportCollector(Collector):
    """What the last report says; scraped in another thread, which is why it is one reference to frozen values."""

    def __init__(self, server: ServerName, failed_steps: Callable[[], int]) -> None:
        self._server = server
        self._failed_steps = failed_steps
        self.report: StepReport | None = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics are known only once there is a report."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the last report; next to none before the first step."""
        text = "Steps that failed unexpectedly; the log has their tracebacks."
        yield self._counter("slim_controller_step_errors", text, self._failed_steps())
        report = self.report
        if report is None:
            return
        yield self._counter("slim_controller_steps", "Steps so far.", report.steps)
        yield self._gauge("slim_controller_last_step_timestamp_seconds", "When the last step began.", report.unix_s)
        is_up = float(report.snapshot is not None)
        yield self._gauge("slim_controller_triton_up", "Whether Triton could be observed in the last step.", is_up)
        yield from self._models(report)
        yield from self._plan(report)
        yield from self._memory(report)
        if report.reading is not None:
            yield from self._readings(report.reading)

    def _models(self, report: StepReport) -> Iterator[Metric]:
        actual = self._by_model("slim_controller_instances", "Instances that a model runs with.")
        delay = self._by_model("slim_controller_batching_delay_seconds", "How long a model's batches may wait.")
        for seen in report.snapshot.models if report.snapshot else ():
            actual.add_metric((self._server, seen.name), seen.loaded.instances)
            if seen.is_ready:
                delay.add_metric((self._server, seen.name), seen.loaded.batching.delay_us / 1e6)
        quarantined = self._by_model("slim_controller_quarantined_configs", "Configs of a model that are left alone.")
        running = [key[0] for key, entry in report.state.quarantine.entries.items() if report.now_s < entry.until_s]
        for model in sorted(set(running)):
            quarantined.add_metric((self._server, model), running.count(model))
        yield from (actual, delay, quarantined)

    def _plan(self, report: StepReport) -> Iterator[Metric]:
        plan = report.plan
        if plan is None:
            return
        desired = self._by_model("slim_controller_desired_instances", "Instances that a model should run with.")
        for model, instances in plan.desired_instances:
            desired.add_metric((self._server, model), instances)
        refusals = GaugeMetricFamily(
            "slim_controller_refusals",
            "What the last plan would do and may not.",
            labels=("server", "model", "kind", "reason"),
        )
        for labels in sorted({(r.model, r.kind.value, r.reason.value) for r in plan.refusals}):
            refusals.add_metric((self._server, *labels), 1)
        notices = GaugeMetricFamily(
            "slim_controller_notices",
            "What an operator should know; no model where it concerns the host.",
            labels=("server", "model", "kind"),
        )
        for notice in sorted({(n.model or "", n.kind.value) for n in plan.notices}):
            notices.add_metric((self._server, *notice), 1)
        yield from (desired, refusals, notices)

    def _memory(self, report: StepReport) -> Iterator[Metric]:
        ledger = report.state.memory
        budget = report.limits.memory_budget_bytes
        yield self._gauge("slim_controller_memory_budget_bytes", "Memory that is never to be exceeded.", budget)
        text = "Memory that unloads have not given back since Triton started."
        yield self._gauge("slim_controller_memory_residue_bytes", text, ledger.residue_bytes)
        load = self._by_model("slim_controller_learned_load_bytes", "What a load with one instance was seen to take.")
        for model, seen in sorted(ledger.loads_bytes.items()):
            load.add_metric((self._server, model), max(seen))
        text = "What one further instance was seen to take."
        further = self._by_model("slim_controller_learned_instance_bytes", text)
        for model, seen in sorted(ledger.instances_bytes.items()):
            further.add_metric((self._server, model), max(seen))
        text = "What its largest instance was last seen to take, where instances are processes."
        sizes = self._by_model("slim_controller_learned_seen_bytes", text)
        for model, size in sorted(ledger.seen_bytes.items()):
            sizes.add_metric((self._server, model), size)
        yield from (load, further, sizes)

    def _readings(self, reading: HostReading) -> Iterator[Metric]:
        yield from self._reading(
            "slim_controller_memory_used_bytes", "Memory in use, against the budget.", reading.memory_used_bytes
        )
        yield from self._reading(
            "slim_controller_memory_total_bytes", "Memory of the device or host.", reading.memory_total_bytes
        )
        yield from self._reading(
            "slim_controller_utilisation_ratio", "Of the device or of Triton's CPUs.", reading.utilisation_ratio
        )
        yield from self._reading("slim_controller_power_watts", "Power drawn now.", reading.power_w)
        energy = reading.energy_j
        if energy.value is not None:
            family = CounterMetricFamily(
                "slim_controller_energy_joules",
                "Energy drawn since a fixed moment; only differences mean something.",
                labels=("server", "source"),
            )
            family.add_metric((self._server, energy.source), energy.value)
            yield family

    def _reading(self, name: str, text: str, reading: Reading) -> Iterator[Metric]:
        if reading.value is not None:
            family = GaugeMetricFamily(name, text, labels=("server", "source"))
            family.add_metric((self._server, reading.source), reading.value)
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("server",))
        family.add_metric((self._server,), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=("server",))
        family.add_metric((self._server,), value)
        return family

    def _by_model(self, name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=("server", "model"))
