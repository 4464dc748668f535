"""A request that another gateway answers is one trace over both."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="tracing needs OpenTelemetry: pip install 'slim-scheduler[otel]'")

from tests.gateway.calls import RawCalls, item_request
from tests.gateway.otlp import Receiver, attributes, receiving
from tests.gateway.peers.test_gateways import sharing

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def ask_by_a_hop(directory: Path, receiver: Receiver, flags: str | None, *, ratio: float = 0.0) -> str:
    """Return the driver's address after a gateway without a server was asked, with a context of these flags."""
    tracing = {"endpoint": receiver.url, "sample_ratio": ratio}
    async with sharing(directory, tritons=1, gateways=2, tracing=tracing) as members:
        (driver,) = [member for member in members if member.drives]
        (other,) = [member for member in members if member is not driver]
        context = () if flags is None else (("traceparent", f"00-{TRACE}-{CALLER}-{flags}"),)
        await RawCalls(other.calls.channel).bytes("ModelInfer", item_request().SerializeToString(), metadata=context)
        return driver.peer_address


async def test_the_peers_spans_hang_below_the_hop_and_that_below_the_caller(tmp_path: Path) -> None:
    with receiving() as receiver:
        driver = await ask_by_a_hop(tmp_path, receiver, "01")
    [hop], [attempt] = receiver.named("hop"), receiver.named("attempt")
    asked, answered = sorted(receiver.named("inference"), key=lambda span: span.parent_span_id.hex() != CALLER)
    assert asked.parent_span_id.hex() == CALLER
    assert (hop.parent_span_id, answered.parent_span_id) == (asked.span_id, hop.span_id)
    assert attempt.parent_span_id == answered.span_id
    assert {span.trace_id.hex() for _, span in receiver.spans} == {TRACE}
    assert attributes(hop) == {"slim.peer": driver}
    assert asked.start_time_unix_nano <= hop.start_time_unix_nano <= hop.end_time_unix_nano


async def test_a_trace_that_begins_at_a_gateway_goes_on_at_its_peer(tmp_path: Path) -> None:
    with receiving() as receiver:
        await ask_by_a_hop(tmp_path, receiver, None, ratio=1.0)
    [hop] = receiver.named("hop")
    assert hop.span_id in {span.parent_span_id for span in receiver.named("inference")}
    assert len({span.trace_id for _, span in receiver.spans}) == 1


@pytest.mark.parametrize("flags", ["00", None])
async def test_what_is_not_sampled_has_no_spans_at_the_peer_either(tmp_path: Path, flags: str | None) -> None:
    with receiving() as receiver:
        await ask_by_a_hop(tmp_path, receiver, flags)
    assert receiver.spans == []
