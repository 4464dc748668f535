"""A gRPC service: which methods there are, and who may call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.server_call import CallRules
from orchestrator.http2.grpc.streaming_call import StreamHandler, StreamingCall
from orchestrator.http2.grpc.unary_call import QuickHandler, UnaryCall, UnaryHandler
from orchestrator.http2.grpc.wire import Metadata, RequestHead, RpcError, http_refusal, trailers
from orchestrator.http2.stream import Receiver, Stream


@dataclass(frozen=True, slots=True)
class Service(CallRules):
    """What is offered, by path, and how failures are told.

    Attributes:
        unary: handlers of one message each.
        streaming: handlers of streams both ways.
        check: raises what a call is refused with by its path and metadata, before its message has come; None lets all
            in.
        quick: handlers that are asked first, for the paths of some unary ones.
    """

    unary: dict[str, UnaryHandler]
    streaming: dict[str, StreamHandler]
    check: Callable[[str, Metadata], None] | None = None
    quick: Mapping[str, QuickHandler] = field(default_factory=dict)

    def accept(self, stream: Stream, head: RequestHead) -> Receiver | None:
        """Begin a call, or answer at once what is none."""
        if head.is_malformed:
            stream.reset(ErrorCode.PROTOCOL_ERROR)
        elif head.problem:
            stream.send_headers(http_refusal(head.problem), is_last=True)
        elif head.is_too_large:
            _refuse(stream, "RESOURCE_EXHAUSTED", f"more than {self.limits.header_list_bytes} bytes of metadata")
        elif (refusal := self._refusal(head)) is not None:
            _refuse(stream, refusal.status, refusal.detail)
        elif (unary := self.unary.get(head.path)) is not None:
            return UnaryCall(self, stream, head, unary, self.quick.get(head.path))
        elif (streaming := self.streaming.get(head.path)) is not None:
            return StreamingCall(self, stream, head, streaming)
        else:
            _refuse(stream, "UNIMPLEMENTED", f"there is no method {head.path[:200]}")
        return None

    def _refusal(self, head: RequestHead) -> RpcError | None:
        if self.check is None:
            return None
        try:
            self.check(head.path, head.metadata)
        except Exception as exc:
            return self.explain(exc)
        return None


def _refuse(stream: Stream, status: str, detail: str) -> None:
    stream.send_headers(trailers(status, detail, is_only=True), is_last=True)
