"""What of a request's way a tracing system wants to know; noted for the few requests that are traced."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from orchestrator.snapshot import ServerName, Width

SPAN_BITS = 64


def draw_id(bits: int = SPAN_BITS) -> str:
    """Return a random id that is not 0, in hexadecimal digits, as W3C's trace context has it."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


@dataclass(slots=True)
class Attempt:
    """One batch that a traced request went in; times are seconds on the event loop's clock.

    Attributes:
        items: Of the whole batch.
        ended_s: When it was answered or had failed; None: not yet.
        error: The kind of failure; None: there was none.
        span_id: Of the span that stands for it, 16 hexadecimal digits.
    """

    server: ServerName
    width: Width
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
    """A request that is traced; the router notes the attempts.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: The caller's span, 16 of them; None: the trace begins here.
    """

    trace_id: str
    parent_id: str | None = None
    attempts: list[Attempt] = field(default_factory=list)

    def begin(self, attempt: Attempt) -> tuple[tuple[str, str], ...]:
        """Note an attempt, and return the metadata by which its server goes on with the trace."""
        self.attempts.append(attempt)
        return (("traceparent", f"00-{self.trace_id}-{attempt.span_id}-01"),)
