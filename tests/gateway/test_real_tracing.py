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

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WAIT_S = 60.0


def tritons_own(receiver: Receiver) -> list[Any]:
    """Return Triton's spans of the trace that have come."""
    found = [span for service, span in receiver.spans if "triton" in service.lower()]
    return [span for span in found if span.trace_id.hex() == TRACE]


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
            with grpcclient.InferenceServerClient(gateway.place.grpc) as client:
                parent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
                client.infer("fashion", tensors(grpcclient, pixels=images(1)), headers=parent)
            assert stop_gateway(gateway) == 0, gateway.lines
            [root], [attempt] = receiver.named("inference"), receiver.named("attempt")
            until_s = time.monotonic() + WAIT_S
            # Triton tells of probes as well, and may send those first.
            while attempt.span_id not in {span.parent_span_id for span in tritons_own(receiver)}:
                assert time.monotonic() < until_s, [(service, s.name) for service, s in receiver.spans]
                time.sleep(0.1)
        assert root.parent_span_id.hex() == CALLER
        ids = {span.span_id for _, span in receiver.spans}
        assert {span.parent_span_id for span in tritons_own(receiver)} <= ids  # nothing hangs in the air
        assert attributes(root)["slim.model"] == "fashion"
