"""A receiver of OpenTelemetry's spans over HTTP, which nobody here wrote the messages of."""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = ("traceId", "spanId", "parentSpanId")


class Receiver:
    """Spans that came, as their messages, with the service that sent them."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1/traces"

    def named(self, name: str) -> list[Any]:
        return [span for _, span in list(self.spans) if span.name == name]

    def take(self, body: bytes, *, is_json: bool) -> None:
        request = _from_json(body) if is_json else ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            names = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            for scope in resource.scope_spans:
                self.spans += [((names or [""])[0], span) for span in scope.spans]


def _from_json(body: bytes) -> Any:
    """Return what JSON says, in which OTLP has ids in hexadecimal digits, unlike protobuf's own JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.b64encode(bytes.fromhex(each)).decode() if key in _IDS else plain(each)
            for key, each in value.items()
        }

    return json_format.ParseDict(plain(json.loads(body)), ExportTraceServiceRequest(), ignore_unknown_fields=True)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            receiver.take(body, is_json="json" in self.headers["Content-Type"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
