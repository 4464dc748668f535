"""Spans of requests for OpenTelemetry: gateway, queue, and each attempt, joined to the caller's trace and to Triton's.

Spans are made when a request has ended, from times that are known anyway, so a request costs nothing more on its way;
only the ids of attempts are drawn when they are sent, because Triton is told them (``traceparent``, W3C), with the
caller's ``tracestate``. The caller's own decision to sample is kept: where it does not, its context is told to Triton
as it came. Of requests without a context a part is sampled, and all others cost a comparison. A batch has one caller
for Triton, so of several sampled requests in it the first one's trace goes on there, and each of the others has the
same attempt under an id of its own. Models that are passed on keep their caller's context as it is, and the gateway
adds no span to it.

OpenTelemetry's SDK sends spans from a thread of its own and drops what it can't get rid of. It is imported only where
``gateway.tracing`` is set.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

from orchestrator.config.gateway import TracingSettings
from orchestrator.errors import ConfigError
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.installed.extras import install_hint
from orchestrator.installed.version import read_build
from orchestrator.router import Answer, Trace, draw_id

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_STATE: Final = re.compile(r"[ -~]{1,512}")  # of what W3C has everybody pass on; a longer one goes no further
_TRACE_BITS: Final = 128
_FLUSH_MS: Final = 2000


class Tracing:
    """Decides which requests are traced, and sends their spans.

    ``exporter`` is where they go in place of the endpoint of the settings.

    Raises:
        ConfigError: OpenTelemetry's SDK is not installed.
    """

    def __init__(self, settings: TracingSettings, *, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ModuleNotFoundError as exc:
            raise ConfigError(f"gateway.tracing needs {exc.name}: {install_hint('otel')}") from exc
        self._ratio = settings.sample_ratio
        self._ids = _GivenIds()
        resource = Resource.create({"service.name": settings.service_name, "service.version": read_build()[0]})
        # What is sampled was decided before.
        self._provider = TracerProvider(ALWAYS_ON, resource, id_generator=self._ids, shutdown_on_exit=False)  # type: ignore[arg-type]
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(settings.endpoint)))
        self._tracer = self._provider.get_tracer("slim-scheduler")

    def begin(self, metadata: Metadata) -> Trace | None:
        """Return what a request's way is noted in; None when it is not traced and has no context to be told on."""
        for key, value in metadata:
            if key == "traceparent" and (found := _PARENT.fullmatch(str(value))) is not None:
                trace_id, parent_id, flags = found.groups()
                if int(trace_id, 16) and int(parent_id, 16):
                    state = ",".join(str(value) for key, value in metadata if key == "tracestate")
                    state = state if _STATE.fullmatch(state) else ""
                    return Trace(trace_id, parent_id, is_sampled=bool(int(flags, 16) & 1), state=state)
        return Trace(draw_id(_TRACE_BITS)) if random.random() < self._ratio else None

    def end(self, trace: Trace, model: str, outcome: str, *, began_s: float, answer: Answer | None) -> None:
        """Send the spans of a request that has ended now; it began at ``began_s`` on the event loop's clock."""
        if not trace.is_sampled:
            return
        now_s, now_ns = asyncio.get_running_loop().time(), time.time_ns()

        def ns(at_s: float) -> int:
            return now_ns - round((now_s - at_s) * 1e9)

        said = {"slim.model": model, "slim.outcome": outcome}
        if answer is not None:
            said |= {"slim.decision_id": answer.decision_id, "slim.policy": answer.policy}
        root = self._span(
            "inference", _parent(trace), ns(began_s), now_ns, said, kind="SERVER", trace_id=trace.trace_id
        )
        sent_s = trace.attempts[0].sent_s if trace.attempts else now_s
        self._span("queue", root, ns(began_s), ns(sent_s), {})
        for attempt in trace.attempts:
            ended_ns = now_ns if attempt.ended_s is None else ns(attempt.ended_s)
            ran: dict[str, Any] = {
                "slim.server": attempt.server,
                "slim.width": attempt.width,
                "slim.batch": attempt.items,
            }
            if attempt.error is not None:
                ran["error.type"] = attempt.error
            self._span("attempt", root, ns(attempt.sent_s), ended_ns, ran, kind="CLIENT", span_id=attempt.span_id)

    async def close(self) -> None:
        """Send what is left, for no longer than two seconds."""
        await asyncio.to_thread(self._provider.force_flush, _FLUSH_MS)
        await asyncio.to_thread(self._provider.shutdown)

    def _span(
        self,
        name: str,
        parent: Context,
        began_ns: int,
        ended_ns: int,
        attributes: dict[str, Any],
        *,
        kind: str = "INTERNAL",
        trace_id: str | None = None,
        span_id: str | None = None,
    ) -> Context:
        """Send a span, and return the context in which others are below it."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        self._ids.trace_id, self._ids.span_id = trace_id, span_id
        span = self._tracer.start_span(
            name, parent, SpanKind[kind], attributes=attributes, start_time=min(began_ns, ended_ns)
        )
        if "error.type" in attributes or attributes.get("slim.outcome") in ("failed", "unavailable", "refused"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)
        return set_span_in_context(span, parent)


class _GivenIds:
    """OpenTelemetry's generator of ids, which gives those that were drawn before."""

    def __init__(self) -> None:
        self.trace_id: str | None = None
        self.span_id: str | None = None

    def generate_trace_id(self) -> int:
        return int(self.trace_id or draw_id(_TRACE_BITS), 16)

    def generate_span_id(self) -> int:
        return int(self.span_id or draw_id(), 16)

    def is_trace_id_random(self) -> bool:
        return True


def _parent(trace: Trace) -> Context:
    """Return the context of the caller's span; an empty one where there is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if trace.parent_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED)
    caller = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(caller), Context())
