"""One connected trace of a call by tritonclient, from its context to Triton's own spans, at an OTLP receiver."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient

from orchestrator.embedded.server import EmbeddedOptions
from tests.gateway.otlp import Receiver, attributes, receiving
from tests.gateway.running import images, start_gateway, stop_gateway, tensors, write_repository
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
pytest.importorskip("opentelemetry.sdk", reason="tracing needs OpenTelemetry: pip install 'slim-scheduler[otel]'")

TRACES = tuple(f"0af7651916cd43dd8448eb211c8031{number:02x}" for number in range(3))
"""Triton sends each batch of its spans once, and one that does not get through is lost: so there are several calls."""
CALLER = "b7ad6b7169203331"
APART_S = 0.5
WAIT_S = 60.0


def spans_of(receiver: Receiver, trace: str, *, of_triton: bool) -> list[Any]:
    """Return the spans of a trace that have come from Triton, or from the gateway."""
    found = [span for service, span in list(receiver.spans) if ("triton" in service.lower()) == of_triton]
    return [span for span in found if span.trace_id.hex() == trace]


def whole_trace(receiver: Receiver) -> str | None:
    """Return a trace in which Triton's spans hang below the gateway's attempt; None when none has come yet."""
    for trace in TRACES:
        [attempt] = [span for span in spans_of(receiver, trace, of_triton=False) if span.name == "attempt"]
        if attempt.span_id in {span.parent_span_id for span in spans_of(receiver, trace, of_triton=True)}:
            return trace
    return None


def test_a_call_is_one_trace_down_to_triton(tmp_path: Path, tritons: Tritons) -> None:
    (repository := tmp_path / "repository").mkdir()
    write_repository(repository)
    with receiving() as receiver:
        flags = tuple(
            f"--trace-config={setting}"
            for setting in (
                "mode=opentelemetry",
                "rate=1",
                "level=TIMESTAMPS",
                f"opentelemetry,url={receiver.url}",
                "opentelemetry,bsp_schedule_delay=100",
            )
        )
        options = EmbeddedOptions(models=("fashion_w025",), exit_timeout_s=2, extra_flags=flags)
        with tritons.running(repository, options) as server:
            settings = {"endpoint": receiver.url, "sample_ratio": 0.0}
            gateway = start_gateway(tmp_path, [server], tracing=settings)
            with grpcclient.InferenceServerClient(gateway.addresses.grpc) as client:
                for trace in TRACES:
                    parent = {"traceparent": f"00-{trace}-{CALLER}-01"}
                    client.infer("fashion", tensors(grpcclient, pixels=images(1)), headers=parent)
                    time.sleep(APART_S)
            assert stop_gateway(gateway) == 0, gateway.lines
            until_s = time.monotonic() + WAIT_S
            while (whole := whole_trace(receiver)) is None:
                assert time.monotonic() < until_s, [
                    (service, s.name, s.trace_id.hex()) for service, s in receiver.spans
                ]
                time.sleep(0.1)
        [root] = [span for span in spans_of(receiver, whole, of_triton=False) if span.name == "inference"]
        assert root.parent_span_id.hex() == CALLER
        ids = {span.span_id for _, span in receiver.spans}
        assert {
            span.parent_span_id for span in spans_of(receiver, whole, of_triton=True)
        } <= ids  # none hangs in the air
        assert attributes(root)["slim.model"] == "fashion"
