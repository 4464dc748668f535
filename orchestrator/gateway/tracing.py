"""Spans of requests for OpenTelemetry: gateway, queue, and each attempt, joined to the caller's trace and to Triton's.

Spans are made after a request has ended (``spans``), from times that are known anyway, so a request costs nothing more
on its way; only the ids of attempts are drawn when they are sent, because Triton is told them (``traceparent``, W3C),
with the caller's ``tracestate``. The caller's own decision to sample is kept: where it does not, its context is told to
Triton as it came. Of requests without a context a part is sampled, and all others cost a comparison. A batch has one
caller for Triton, so of several sampled requests in it the first one's trace goes on there, and each of the others has
the same attempt under an id of its own. A gateway that has another one answer a request tells it the context of that
hop. Models that are passed on keep their caller's context as it is, and the gateway adds no span to it.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.config.gateway import TracingSettings
from orchestrator.errors import ConfigError
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.installed.extras import install_hint
from orchestrator.router import Answer, Attempt, Trace, context_of, draw_id

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_STATE: Final = re.compile(r"[ -~]{1,512}")  # of what W3C has everybody pass on; a longer one goes no further
_TRACE_BITS: Final = 128
_FLUSH_S: Final = 2.0


class Tracing:
    """Decides which requests are traced, and sends their spans.

    Raises:
        ConfigError: OpenTelemetry's SDK is not installed.
    """

    def __init__(self, settings: TracingSettings) -> None:
        try:
            from orchestrator.gateway.spans import Ended, SpanSender  # nobody else pays for what it imports
        except ModuleNotFoundError as exc:
            raise ConfigError(f"gateway.tracing needs {exc.name}: {install_hint('otel')}") from exc
        self._ratio = settings.sample_ratio
        self._note = Ended
        self._sender = SpanSender(settings)

    def begin(self, metadata: Metadata, *, is_hop: bool) -> Trace | None:
        """Return what a request's way is noted in; None when it is not traced and has no context to be told on.

        Of one that came by a hop, the gateway that was asked has decided.
        """
        for key, value in metadata:
            if key == "traceparent" and (found := _PARENT.fullmatch(str(value))) is not None:
                trace_id, parent_id, flags = found.groups()
                if int(trace_id, 16) and int(parent_id, 16):
                    state = ",".join(str(value) for key, value in metadata if key == "tracestate")
                    state = state if _STATE.fullmatch(state) else ""
                    return Trace(trace_id, parent_id, is_sampled=bool(int(flags, 16) & 1), state=state)
        return Trace(draw_id(_TRACE_BITS)) if not is_hop and random.random() < self._ratio else None

    def end(self, trace: Trace, model: str, outcome: str, *, began_s: float, answer: Answer | None) -> None:
        """Have the spans of a request sent that has ended now; it began at ``began_s`` on the event loop's clock."""
        if not trace.is_sampled:
            return
        said = {"slim.model": model}
        if answer is not None:
            said |= {"slim.decision_id": answer.decision_id, "slim.policy": answer.policy}
        now_s = asyncio.get_running_loop().time()
        self._sender.add(self._note(trace, outcome, said, began_s, now_s, time.time_ns()))

    async def close(self) -> None:
        """Send what is left, for no longer than two seconds."""
        await asyncio.to_thread(self._sender.close, _FLUSH_S)


@contextmanager
def hop_noted(trace: Trace | None, peer: str) -> Iterator[Metadata]:
    """Note in the trace of a request, where there is one, that a peer is asked, and yield what it is told of it."""
    if trace is None:
        yield ()
        return
    clock = asyncio.get_running_loop().time
    hop = Attempt(peer, None, 0, clock())
    if trace.is_sampled:
        trace.attempts.append(hop)
    try:
        yield context_of((trace,))
    except BaseException as exc:
        hop.error = type(exc).__name__
        raise
    finally:
        hop.ended_s = clock()
