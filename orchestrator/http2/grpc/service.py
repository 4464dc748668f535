"""A gRPC service: which methods there are, and who may call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic

from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.server_call import CallerT, CallRules
from orchestrator.http2.grpc.streaming_call import StreamHandler, StreamingCall
from orchestrator.http2.grpc.unary_call import QuickHandler, UnaryCall, UnaryHandler
from orchestrator.http2.grpc.wire import Metadata, RequestHead, http_refusal, trailers
from orchestrator.http2.stream import Receiver, Stream


@dataclass(frozen=True, slots=True)
class Service(CallRules, Generic[CallerT]):
    """What is offered, by path, and how failures are told.

    Attributes:
        unary: Handlers of one message each, by path.
        streaming: Handlers of streams both ways, by path.
        identify: Returns who makes a call of a path with this metadata, for its handler; called once a call, before its
            message has come. Raises what the call is refused with.
        quick: Handlers that are asked first, for the paths of some unary ones.
    """

    unary: Mapping[str, UnaryHandler[CallerT]]
    streaming: Mapping[str, StreamHandler[CallerT]]
    identify: Callable[[str, Metadata], CallerT]
    quick: Mapping[str, QuickHandler[CallerT]] = field(default_factory=dict)

    def accept(self, stream: Stream, head: RequestHead) -> Receiver | None:
        """Begin a call, or answer at once what is none."""
        if head.is_malformed:
            stream.reset(ErrorCode.PROTOCOL_ERROR)
        elif head.problem:
            stream.send_headers(http_refusal(head.problem), is_last=True)
        elif head.is_too_large:
            _refuse(stream, "RESOURCE_EXHAUSTED", f"more than {self.limits.header_list_bytes} bytes of metadata")
        else:
            return self._begin(stream, head)
        return None

    def _begin(self, stream: Stream, head: RequestHead) -> Receiver | None:
        try:
            caller = self.identify(head.path, head.metadata)
        except Exception as exc:
            refusal = self.explain(exc)
            _refuse(stream, refusal.status, refusal.detail)
            return None
        if (unary := self.unary.get(head.path)) is not None:
            return UnaryCall(self, stream, head, caller, unary, self.quick.get(head.path))
        if (streaming := self.streaming.get(head.path)) is not None:
            return StreamingCall(self, stream, head, caller, streaming)
        _refuse(stream, "UNIMPLEMENTED", f"there is no method {head.path[:200]}")
        return None


def _refuse(stream: Stream, status: str, detail: str) -> None:
    stream.send_headers(trailers(status, detail, is_only=True), is_last=True)
