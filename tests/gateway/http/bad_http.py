"""HTTP requests that are wrong, as the bytes that a client would send, by what is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

LENGTH = "Inference-Header-Content-Length"
_LENGTH = LENGTH.replace("-", "_")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(path: str, content: Any, **headers: Any) -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if not {"Content_Length", "Transfer_Encoding"} & headers.keys():
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]} | more


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in tensor().items() if name != key}


def deep(levels: int) -> bytes:
    return json.dumps({"inputs": [tensor(data="D")]}).encode().replace(b'"D"', b"[" * levels + b"]" * levels)


async def speak(address: str, request: bytes, *, patience_s: float = 5.0) -> int | None:
    """Return the status of the answer, None when the connection ends, or stays silent, without one."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    line = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(request)
        async with asyncio.timeout(patience_s):
            line = await reader.readline()
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else None


def sized(path: str, size: str) -> bytes:
    """Return an inference whose binary data has another size than it says."""
    found = json.dumps({"inputs": [without("data") | {"parameters": {"binary_data_size": "S"}}]})
    text = found.replace('"S"', size).encode()
    return post(path, text + bytes(16), **{_LENGTH: len(text)})


def infer_cases(path: str) -> dict[str, bytes]:
    """Return wrong inferences for a model that takes x, FP32 of [n, 4]."""

    def of(*inputs: Any, **more: Any) -> bytes:
        return post(path, {"inputs": list(inputs), **more})

    def with_output(**parameters: Any) -> bytes:
        return of(tensor(), outputs=[{"name": "y", "parameters": parameters}])

    body = json.dumps({"inputs": [tensor()]}).encode()
    sizes = ("17", str(2**40), "-1", "1.5", '"x"', "9" * 4299, "9" * 4300, "9" * 4301)
    return {
        "shape negative": of(tensor(shape=[-1, 4])),
        "shape overflow": of(tensor(shape=[2**62, 2**62])),
        "shape huge": of(tensor(shape=[10**30])),
        "shape float": of(tensor(shape=[1.5, 4])),
        "shape text": of(tensor(shape="x")),
        "shape of 1001 sides": of(tensor(shape=[1] * 1000 + [4])),
        **{f"no {key}": of(without(key)) for key in ("name", "shape", "datatype", "data")},
        "data short": of(tensor(data=[1])),
        "data text": of(tensor(data=["a"] * 4)),
        "data null": of(tensor(data=[None] * 4)),
        "data object": of(tensor(data={})),
        "data bool": of(tensor(data=[True] * 4)),
        "data beyond a double": post(path, body.replace(b"[1, 2", b"[1" + b"0" * 400 + b", 2")),
        "data of 5000 digits": post(path, body.replace(b"[1, 2", b"[1" + b"0" * 5000 + b", 2")),
        "datatype wrong": of(tensor(datatype="INT32")),
        "datatype unknown": of(tensor(datatype="x")),
        "datatype number": of(tensor(datatype=5)),
        "input unknown": of(tensor(name="z")),
        "input without a name": of(tensor(name="")),
        "input too many": of(tensor(), tensor(name="z")),
        "input twice": of(tensor(), tensor()),
        "inputs none": of(),
        "inputs an object": post(path, {"inputs": {}}),
        "inputs missing": post(path, {}),
        "a list": post(path, []),
        "a number": post(path, 5),
        "nothing": post(path, b""),
        "cut off": post(path, body[:-3]),
        "more after it": post(path, body + b"x"),
        "a lone surrogate": post(path, body.replace(b'"x"', b'"\\ud800"')),
        "nested 50 deep": post(path, deep(50)),
        "nested 900 deep": post(path, deep(900)),
        "outputs unknown": of(tensor(), outputs=[{"name": "nope"}]),
        "outputs an object": of(tensor(), outputs={}),
        "outputs without a name": of(tensor(), outputs=[{}]),
        "classification negative": with_output(classification=-1),
        "classification text": with_output(classification="x"),
        "parameters a list": of(tensor(), parameters=[]),
        "parameter null": of(tensor(), parameters={"a": None}),
        "parameter an object": of(tensor(), parameters={"a": {}}),
        "priority negative": of(tensor(), parameters={"priority": -1}),
        "priority text": of(tensor(), parameters={"priority": "x"}),
        "timeout negative": of(tensor(), parameters={"timeout": -1}),
        "timeout text": of(tensor(), parameters={"timeout": "x"}),
        "triton_ parameter": of(tensor(), parameters={"triton_x": 1}),
        **{f"binary size {size[:9]} of {len(size)}": sized(path, size) for size in sizes},
        **{f"json length {n}": post(path, body, **{_LENGTH: n}) for n in (len(body) + 1, -1, "x", "9" * 30)},
        "raw of a wrong size": post(path, bytes(15), **{_LENGTH: 0}),
        "encoding unknown": post(path, body, Content_Encoding="br"),
        "encoding damaged": post(path, body, Content_Encoding="gzip"),
    }


def framing_cases(path: str) -> dict[str, bytes]:
    """Return requests whose end is in doubt, which is how one is smuggled past a proxy, and what is no HTTP."""
    body = json.dumps({"inputs": [tensor()]}).encode()
    chunks = b"%x\r\n%s\r\n" % (len(body), body)
    return {
        "two lengths": post(path, body, Content_Length=f"{len(body)}\r\nContent-Length: {len(body) - 1}"),
        "one length twice": post(path, body, Content_Length=f"{len(body)}\r\nContent-Length: {len(body)}"),
        "length and chunks": post(path, chunks + b"0\r\n\r\n", Content_Length=5, Transfer_Encoding="chunked"),
        "length negative": post(path, body, Content_Length=-1),
        "length with a sign": post(path, body, Content_Length=f"+{len(body)}"),
        "length text": post(path, body, Content_Length="x"),
        "chunk size text": post(path, b"zz\r\n\r\n", Transfer_Encoding="chunked"),
        "chunk size beyond 64 bits": post(path, b"f" * 17 + b"\r\n{}", Transfer_Encoding="chunked"),
        "transfer encoding unknown": post(path, body, Transfer_Encoding="x"),
        "header without a colon": b"GET /v2 HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        "header with a space": b"GET /v2 HTTP/1.1\r\nHost : x\r\n\r\n",
        "header with a zero byte": b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        "header folded": b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        "header huge": b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 100_000 + b"\r\n\r\n",
        "no HTTP": b"hello\r\n\r\n",
        "gRPC on the wrong port": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS on the wrong port": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
    }


PATHS = (
    "/v2/models/../models/M",
    "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/v2/models/..%2fM/config",
    "/v2/models/../../etc/passwd/config",
    "/v2/models/M%2fconfig",
    "/v2/models/%00",
    "/v2/models/M%00",
    "/v2/models/%zz",
    "/v2/models/%ff",
    "//v2/models/M",
    "/v2//models/M",
    "/v2/models/M/versions/../config",
    "/v2/models/M/versions/-1",
    "/v2/models/M/versions/" + "9" * 40,
    "/v2/models/M/versions/x",
    "/v2/models/nope",
)
"""Paths at which nothing is."""
