"""What sends spans, against receivers that fail or never answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="tracing needs OpenTelemetry: pip install 'slim-scheduler[otel]'")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from orchestrator.config.gateway import TracingSettings
from orchestrator.gateway.spans import Ended, SpanSender
from orchestrator.router import Trace


class FakeExporter(SpanExporter):
    """Keeps the names of spans; fails for the first batches, or waits until it is shut down."""

    def __init__(self, *, failures: int = 0, waits: bool = False) -> None:
        self.batches: list[list[str]] = []
        self._failures = failures
        self._is_shut = threading.Event()
        self._waits = waits

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append([span.name for span in spans])
        if self._waits:
            self._is_shut.wait()
        if len(self.batches) <= self._failures:
            raise OSError("the receiver is away")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._is_shut.set()


def ended(n: int) -> Ended:
    return Ended(Trace(f"{n:032x}"), "ok", {}, 1.0, 2.0, 10**18)


def sender_with(exporter: FakeExporter, requests: int) -> SpanSender:
    sender = SpanSender(TracingSettings(), exporter)
    for n in range(1, requests + 1):
        sender.add(ended(n))
    return sender


def test_what_waits_when_a_gateway_ends_is_sent() -> None:
    exporter = FakeExporter()
    sender_with(exporter, 3).close(60.0)
    assert exporter.batches == [["inference", "queue"] * 3]


def test_a_batch_that_could_not_be_sent_is_dropped_and_the_next_one_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    exporter = FakeExporter(failures=1)
    sender_with(exporter, 200).close(60.0)
    assert [len(batch) for batch in exporter.batches] == [256, 144]
    assert "could not be sent" in caplog.text


def test_of_more_than_can_wait_the_oldest_are_dropped() -> None:
    exporter = FakeExporter()
    sender_with(exporter, 5000).close(60.0)
    assert sum(map(len, exporter.batches)) == 2 * 2048


def test_a_receiver_that_never_answers_does_not_keep_a_gateway_from_its_end() -> None:
    exporter = FakeExporter(waits=True)
    sender_with(exporter, 1).close(0.0)  # it would wait for ever
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "spans")


def test_times_are_those_of_1970_and_never_run_backwards() -> None:
    spans: list[Any] = []

    class Keeping(FakeExporter):
        def export(self, batch: Sequence[ReadableSpan]) -> SpanExportResult:
            spans.extend(batch)
            return SpanExportResult.SUCCESS

    sender_with(Keeping(), 1).close(60.0)
    root, queue = spans
    assert (root.start_time, root.end_time) == (10**18 - 10**9, 10**18)
    assert queue.start_time <= queue.end_time
