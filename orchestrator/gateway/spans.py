"""Spans of requests that have ended, on their way to a receiver of OpenTelemetry's; needs the extra ``otel``.

A request only leaves what is known of its way. A thread makes spans of that, many at a time, and sends them: made one
at a time between other work, they took five times the processor time. For the same reason they don't come of
OpenTelemetry's tracer, which samples spans and guards those that go on. What can't be sent is dropped, the oldest
first.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from orchestrator.config.gateway import TracingSettings
from orchestrator.installed.version import read_build
from orchestrator.router import Trace, draw_id

log = logging.getLogger(__name__)

_PERIOD_S: Final = 5.0
_MOST_WAITING: Final = 2048
_MOST_AT_ONCE: Final = 128
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FAILED: Final = ("failed", "unavailable", "refused")


@dataclass(frozen=True, slots=True)
class Ended:
    """A traced request that has ended.

    Attributes:
        said: What its span says besides its outcome, in a word of ``statuses``, by attribute.
        began_s: When it began on the clock of its attempts, seconds.
        ended_s: When it ended, by the same.
        ended_ns: When it ended, in nanoseconds since 1970.
    """

    trace: Trace
    outcome: str
    said: Mapping[str, str]
    began_s: float
    ended_s: float
    ended_ns: int


class SpanSender:
    """Sends the spans of requests every five seconds, from a thread that does not hold up the process' end.

    ``exporter`` is where they go in place of the endpoint of the settings.
    """

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        self._resource = Resource.create({"service.name": settings.service_name, "service.version": read_build()[0]})
        self._scope = InstrumentationScope("slim-scheduler")
        self._exporter = exporter or OTLPSpanExporter(settings.endpoint)
        self._waiting: deque[Ended] = deque(maxlen=_MOST_WAITING)
        self.add = self._waiting.append
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Send what is left, for no longer than ``timeout_s``."""
        self._is_closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._is_closing.wait(_PERIOD_S):
            self._send()
        self._send()

    def _send(self) -> None:
        while self._waiting:
            ended = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            try:
                self._exporter.export([span for each in ended for span in self._spans(each)])
            except Exception:
                log.exception("the spans of %d requests could not be sent", len(ended))

    def _spans(self, ended: Ended) -> Iterator[ReadableSpan]:
        trace, root_id = ended.trace, draw_id()
        sent_s = trace.attempts[0].sent_s if trace.attempts else ended.ended_s

        def span(
            name: str,
            span_id: str,
            parent_id: str | None,
            within_s: tuple[float, float],
            said: Mapping[str, str | int],
            *,
            kind: SpanKind = SpanKind.INTERNAL,
            has_failed: bool = False,
        ) -> ReadableSpan:
            began_ns, ended_ns = (ended.ended_ns - round((ended.ended_s - at_s) * 1e9) for at_s in within_s)
            return ReadableSpan(
                name,
                _context(trace, span_id),
                None if parent_id is None else _context(trace, parent_id),
                self._resource,
                said,
                kind=kind,
                status=Status(StatusCode.ERROR if has_failed else StatusCode.UNSET),
                start_time=min(began_ns, ended_ns),
                end_time=ended_ns,
                instrumentation_scope=self._scope,
            )

        said: dict[str, str | int] = {"slim.outcome": ended.outcome, **ended.said}
        whole, queued = (ended.began_s, ended.ended_s), (ended.began_s, sent_s)
        has_failed = ended.outcome in _FAILED
        yield span("inference", root_id, trace.parent_id, whole, said, kind=SpanKind.SERVER, has_failed=has_failed)
        yield span("queue", draw_id(), root_id, queued, {})
        for attempt in trace.attempts:
            within_s = attempt.sent_s, ended.ended_s if attempt.ended_s is None else attempt.ended_s
            said = {} if attempt.error is None else {"error.type": attempt.error}
            has_failed = attempt.error is not None
            if attempt.width is None:
                name, said["slim.peer"] = "hop", attempt.server
            else:
                name = "attempt"
                said |= {"slim.server": attempt.server, "slim.width": attempt.width, "slim.batch": attempt.items}
            yield span(name, attempt.span_id, root_id, within_s, said, kind=SpanKind.CLIENT, has_failed=has_failed)


def _context(trace: Trace, span_id: str) -> SpanContext:
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), span_id == trace.parent_id, _SAMPLED)
