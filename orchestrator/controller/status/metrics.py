"""The Prometheus metrics of a controller.

Gauges are drawn from the last report when they are scraped, so that a model or refusal that is gone leaves nothing
behind; counters and histograms grow as reports come in. What is unknown is left out, never 0: an absent power metric
and a host that draws nothing must not look alike. Everything lives in a registry of its own.
"""

from __future__ import annotations

import collections
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.controller.report import ActionRecord, StepReport
from orchestrator.controller.status.document import ControllerStatus, describe_status
from orchestrator.installed.version import read_build
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.cpu_pressure import read_cpu_waiting_s

# A plan is to take well below a millisecond, a step some milliseconds; beyond a second both are broken.
_PLAN_BUCKETS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 1e-1, 1.0)
_STEP_BUCKETS_S = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_Samples = Mapping[Any, float]  # tuples of as many strings as there are labels, in which Mapping is invariant
"""The values of a metric by those of its labels, besides the server."""


class ControllerMetrics(Collector):
    """The metrics of one server's controller.

    Scraped in another thread, which is why what is scraped is one reference to frozen values. The function
    ``failed_steps`` returns how many steps failed unexpectedly, and so have no report; ``clock`` is that of the
    reports' timers, in seconds.
    """

    def __init__(
        self,
        server: ServerName,
        *,
        failed_steps: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry()
        self._server = server
        self._failed_steps = failed_steps
        self._clock = clock
        self._report: StepReport | None = None
        self._counted: frozenset[ActionRecord] = frozenset()
        self.registry.register(self)
        self._actions = Counter(
            "slim_controller_actions",
            "Actions that ended, by what became of them.",
            ("server", "kind", "reason", "outcome"),
            registry=self.registry,
        )
        self._failures = Counter(
            "slim_controller_step_failures",
            "Steps in which Triton or its metrics could not be read.",
            ("server",),
            registry=self.registry,
        ).labels(server)
        self._plan = self._histogram("slim_controller_plan_seconds", "Time to make a plan.", _PLAN_BUCKETS_S)
        ProcessCollector(registry=self.registry)
        number, commit = read_build()
        build = {"version": number, "commit": commit or "", "python": platform.python_version()}
        Info("slim_build", "What runs.", registry=self.registry).info(build)
        self._step = self._histogram(
            "slim_controller_step_seconds", "Time a step takes without its actions.", _STEP_BUCKETS_S
        )

    def observe(self, report: StepReport) -> None:
        """Take in the report of a step; each action is counted once, in the step after which it has ended."""
        ended = frozenset(record for record in report.recent if not record.is_under_way)
        for record in ended - self._counted:
            outcome = "ok" if record.error is None else "failed"
            action = record.action
            self._actions.labels(self._server, action.kind.value, action.reason.value, outcome).inc()
        self._counted = ended
        if report.seen.trouble is not None:
            self._failures.inc()
        if report.plan is not None:
            self._plan.observe(report.plan_s)
        self._step.observe(report.step_s)
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics of the last report are known only once there is one."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the last report; next to none before the first step."""
        text = "Steps that failed unexpectedly; the log has their tracebacks."
        yield self._filled(CounterMetricFamily, "slim_controller_step_errors", text, {(): self._failed_steps()})
        report = self._report
        if report is None:
            return
        yield self._filled(CounterMetricFamily, "slim_controller_steps", "Steps so far.", {(): report.steps})
        energy = report.seen.reading.energy_j if report.seen.reading is not None else None
        if energy is not None and energy.value is not None:
            text = "Energy drawn since a fixed moment; only differences mean something."
            drawn_j = {(energy.source,): energy.value}
            yield self._filled(CounterMetricFamily, "slim_controller_energy_joules", text, drawn_j, "source")
        account = report.energy
        if account.last is not None:
            text, idle_j = "Of the energy, what was drawn for nothing.", {(account.last.source,): account.idle_j}
            yield self._filled(CounterMetricFamily, "slim_controller_idle_energy_joules", text, idle_j, "source")
            text, models_j = "Of the energy, what batches drew above that, by busy time.", account.models_j
            shares_j = {(model,): share_j for model, share_j in models_j.items()}
            yield self._filled(CounterMetricFamily, "slim_controller_model_energy_joules", text, shares_j, "model")
            text, answered = "Requests that this was for.", {(model,): n for model, n in account.requests.items()}
            yield self._filled(CounterMetricFamily, "slim_controller_model_energy_requests", text, answered, "model")
        # By this machine's clock alone; Prometheus' may be minutes from it.
        text, age_s = "How long ago the last step was, when this was asked for.", self._clock() - report.seen.at_s
        yield self._filled(GaugeMetricFamily, "slim_controller_last_step_age_seconds", text, {(): age_s})
        if (waiting_s := read_cpu_waiting_s()) is not None:
            text = "Time so far in which a process of this host waited for a core, as the kernel counts it (PSI)."
            yield self._filled(GaugeMetricFamily, "slim_controller_cpu_waiting_seconds", text, {(): waiting_s})
        for name, text, labels, samples in _gauges(report, describe_status(report)):
            yield self._filled(GaugeMetricFamily, name, text, samples, *labels)

    def _filled(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        samples: _Samples,
        *labels: str,
    ) -> Metric:
        metric = kind(name, text, labels=("server", *labels))
        for values, value in samples.items():
            metric.add_metric((self._server, *values), value)
        return metric

    def _histogram(self, name: str, text: str, buckets_s: Sequence[float]) -> Histogram:
        return Histogram(name, text, ("server",), buckets=buckets_s, registry=self.registry).labels(self._server)


def _gauges(report: StepReport, page: ControllerStatus) -> Iterator[tuple[str, str, tuple[str, ...], _Samples]]:
    """Yield (name, help text, labels besides the server, samples) of each gauge."""
    by_model = ("model",)
    yield "slim_controller_last_step_timestamp_seconds", "When the last step began.", (), {(): report.unix_s}
    is_up = float(report.seen.snapshot is not None)
    yield "slim_controller_triton_up", "Whether Triton could be observed in the last step.", (), {(): is_up}
    instances = {(model.model,): model.instances for model in page.models}
    yield "slim_controller_instances", "Instances that a model runs with.", by_model, instances
    delays_s = {(m.model,): m.batching.delay_us / 1e6 for m in page.models if m.batching is not None}
    yield "slim_controller_batching_delay_seconds", "How long a model's batches may wait.", by_model, delays_s
    held = sorted(key[0] for key in report.state.quarantine.at(report.seen.at_s))
    quarantined = collections.Counter((model,) for model in held)
    yield "slim_controller_quarantined_configs", "Configs of a model that are left alone.", by_model, quarantined
    plan = report.plan
    if plan is not None:
        desired = {(model,): count for model, count in plan.desired_instances}
        yield "slim_controller_desired_instances", "Instances that a model should run with.", by_model, desired
        refusals = {(r.model, r.kind.value, r.reason.value): 1 for r in plan.refusals}
        text = "What the last plan would do and may not."
        yield "slim_controller_refusals", text, ("model", "kind", "reason"), refusals
        notices = {(n.model or "", n.kind.value): 1 for n in plan.notices}
        text = "What an operator should know; no model where it concerns the host."
        yield "slim_controller_notices", text, ("model", "kind"), notices
    if page.server_threads is not None:
        yield "slim_controller_triton_threads", "Threads of Triton's process.", (), {(): page.server_threads}
        text = "Threads beyond those that as many instances had before."
        yield "slim_controller_triton_left_threads", text, (), {(): page.left_threads}
    memory = page.memory
    text = "Memory that is never to be exceeded."
    yield "slim_controller_memory_budget_bytes", text, (), {(): memory.budget_bytes}
    text = "Memory that unloads have not given back since Triton started."
    yield "slim_controller_memory_residue_bytes", text, (), {(): memory.residue_bytes}
    learned = memory.learned.items()
    loads = {(model,): each.load_bytes for model, each in learned if each.load_bytes is not None}
    text = "What a load with one instance was seen to take."
    yield "slim_controller_learned_load_bytes", text, by_model, loads
    further = {(m,): each.further_instance_bytes for m, each in learned if each.further_instance_bytes is not None}
    text = "What one further instance was seen to take."
    yield "slim_controller_learned_instance_bytes", text, by_model, further
    sizes = {(model,): each.seen_bytes for model, each in learned if each.seen_bytes is not None}
    text = "What its largest instance was last seen to take, where instances are processes."
    yield "slim_controller_learned_seen_bytes", text, by_model, sizes
    for name, text, reading in (
        ("slim_controller_memory_used_bytes", "Memory in use, against the budget.", memory.used_bytes),
        ("slim_controller_memory_total_bytes", "Memory of the device or host.", memory.total_bytes),
        ("slim_controller_utilisation_ratio", "Of the device or of Triton's CPUs.", page.utilisation_ratio),
        ("slim_controller_power_watts", "Power drawn now.", page.power_w),
    ):
        if reading.value is not None:
            yield name, text, ("source",), {(reading.source,): reading.value}
