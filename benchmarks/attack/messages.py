"""Requests that are small and much to read."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice

from orchestrator.triton.messages import pb

_FAMILY = pb.ModelInferRequest(model_name="fashion").SerializeToString()


def _inside(key: int, content: bytes) -> bytes:
    """Return a field that holds a message."""
    size, value = b"", len(content)
    while value >= 0x80:
        size, value = size + bytes([value & 0x7F | 0x80]), value >> 7
    return bytes([key]) + size + bytes([value]) + content


GRPC_BOMBS: Mapping[str, Callable[[], bytes]] = {
    "unknown-fields": lambda: _FAMILY + b"\x78\x00" * 31_000_000,
    "empty-inputs": lambda: _FAMILY + b"\x2a\x00" * 31_000_000,
    "packed-sides": lambda: _FAMILY + _inside(0x2A, _inside(0x1A, b"\x01" * 60_000_000)),
    "empty-strings": lambda: _FAMILY + _inside(0x2A, _inside(0x2A, b"\x42\x00" * 31_000_000)),
}
"""ModelInferRequests of some 60 MB, which gzip packs into some 60 kB."""


def _tensor(**content: object) -> dict[str, object]:
    return {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], **content}


def _json(body: str, filling: str, times: int) -> bytes:
    """Return JSON in which a filling stands for ``@``, as often as wanted."""
    return body.replace('"@"', filling.join([""] * times) + filling.rstrip(",")).encode()


_ZEROS = json.dumps({"inputs": [_tensor(data=["@"])]})
HTTP_BOMBS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "zeros": ("/v2/models/fashion/infer", lambda: _json(_ZEROS, "0,", 31_000_000)),
    "empty-inputs": ("/v2/models/fashion/infer", lambda: _json('{"inputs": ["@"]}', "{},", 20_000_000)),
    "index-of-inputs": ("/v2/repository/index", lambda: _json('{"inputs": ["@"]}', "{},", 20_000_000)),
    "sides": (
        "/v2/models/fashion/infer",
        lambda: _json(json.dumps({"inputs": [_tensor(data=[0], shape=["@"])]}), "1,", 31_000_000),
    ),
    "strings": (
        "/v2/models/fashion/infer",
        lambda: _json(json.dumps({"inputs": [_tensor(data=["@"], datatype="BYTES")]}), '"",', 12_000_000),
    ),
    "parameters": (
        "/v2/models/fashion/infer",
        lambda: ('{"inputs": [], "parameters": {' + ",".join(f'"p{n}":0' for n in range(700_000)) + "}}").encode(),
    ),
    "nested": ("/v2/models/fashion/infer", lambda: b'{"inputs": [{"data": ' + b"[" * 30_000_000),
}
"""By name: where it is posted, and JSON of some 60 MB."""


_LARGE_BYTES = 63_000_000


def _large(model: str) -> bytes:
    """Return a ModelInferRequest of nearly as many bytes as are taken, which are hard to pack."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="pixels", datatype="FP32", shape=[_LARGE_BYTES // 3136, 1, 28, 28])
    request.raw_input_contents.append(random.Random(0).randbytes(_LARGE_BYTES // 3136 * 3136))
    message: bytes = request.SerializeToString()
    return message


LARGE_MESSAGES: Mapping[str, Callable[[], bytes]] = {
    "family": lambda: _large("fashion"),
    "passed-on": lambda: _large("alone"),
    "model-name": lambda: pb.ModelInferRequest(model_name="m" * _LARGE_BYTES).SerializeToString(),
    "parameter": lambda: _FAMILY + _inside(0x22, b"\x0a\x01p" + _inside(0x12, _inside(0x1A, bytes(_LARGE_BYTES)))),
}
"""ModelInferRequests that are honest but for their size."""


def _large_body() -> tuple[bytes, int]:
    """Return a body of binary data as large as is taken, and the length of its JSON."""
    raw = random.Random(0).randbytes(_LARGE_BYTES // 3136 * 3136)
    tensor = _tensor(shape=[_LARGE_BYTES // 3136, 1, 28, 28], parameters={"binary_data_size": len(raw)})
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + raw, len(text)


def _full_body(values: Iterator[object], datatype: str = "FP32") -> tuple[bytes, None]:
    """Return JSON of nearly as many values as are taken, none of which a server wants."""
    data = list(islice(values, 249_000))
    return json.dumps({"inputs": [_tensor(data=data, shape=[len(data)], datatype=datatype)]}).encode(), None


LARGE_BODIES: Mapping[str, tuple[str, Callable[[], tuple[bytes, int | None]]]] = {
    "family": ("/v2/models/fashion/infer", _large_body),
    "passed-on": ("/v2/models/alone/infer", _large_body),
    "numbers": ("/v2/models/fashion/infer", lambda: _full_body(iter(random.Random(0).random, None))),
    "strings": ("/v2/models/alone/infer", lambda: _full_body(map(str, count()), "BYTES")),
}
"""Bodies that are honest but for their size, and the length of their JSON where binary data follows it."""


def pack(body: bytes) -> bytes:
    """Return a body in gzip, as small as it gets quickly."""
    return gzip.compress(body, 6)
