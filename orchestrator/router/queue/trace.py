"""What of a request's way a tracing system wants to know, for the few that are traced, and what a server is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.snapshot import ServerName, Width

SPAN_BITS = 64


def draw_id(bits: int = SPAN_BITS) -> str:
    """Return a random id that is not 0, in hexadecimal digits, as W3C's trace context has it."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


@dataclass(slots=True)
class Attempt:
    """One batch that a traced request went in, or one hop of it; times are seconds on the event loop's clock.

    Attributes:
        server: Of a hop, the address of the peer.
        width: None: it is a hop.
        items: Of the whole batch; of a hop 0.
        ended_s: When it was answered or had failed; None: not yet.
        error: The kind of failure; None: there was none.
        span_id: Of the span that stands for it, 16 hexadecimal digits.
    """

    server: ServerName | str
    width: Width | None
    items: int
    sent_s: float
    ended_s: float | None = None
    error: str | None = None
    span_id: str = field(default_factory=draw_id)

    def note_end(self, answer: asyncio.Future[Any], now_s: float) -> None:
        """Note that its server's answer, or its failure, is there."""
        self.ended_s = now_s
        if answer.cancelled():
            self.error = "cancelled"
        elif (failure := answer.exception()) is not None:
            self.error = type(failure).__name__


@dataclass(slots=True)
class Trace:
    """A request that has a trace context, or is given one; the router notes the attempts of those that are sampled.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: The caller's span, 16 of them; None: the trace begins here.
        is_sampled: Whether there are spans; of others, servers are only told the caller's context.
        state: The caller's ``tracestate``, which goes on as it came; empty: there is none.
    """

    trace_id: str
    parent_id: str | None = None
    is_sampled: bool = True
    state: str = ""
    attempts: list[Attempt] = field(default_factory=list)


def context_of(traces: Sequence[Trace]) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a server goes on with the trace of a batch, which has one caller for it.

    It is that of the first request, with a sampled one before others.
    """
    if not traces:
        return ()
    trace = max(traces, key=lambda each: each.is_sampled)
    span_id = trace.attempts[-1].span_id if trace.is_sampled else trace.parent_id
    parent = ("traceparent", f"00-{trace.trace_id}-{span_id}-{trace.is_sampled:02d}")
    return (parent, ("tracestate", trace.state)) if trace.state else (parent,)
