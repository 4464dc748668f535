"""Attempts at what a caller may not have or do: another's models, a server's memory, the life of a model.

Each is one call that must be refused. They are made at a gateway with tokens; ``try_all`` counts what was answered all
the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import yaml
from yarl import URL

from orchestrator.triton.infer_wire import encode_varint
from orchestrator.triton.messages import SERVICE, pb

ALL, LIMITED, REVOKED = "token-of-all", "token-of-limited", "token-that-was-revoked"
OTHER = "alone"
"""The model that LIMITED may not use; it may use ``fashion``."""
_ITEM = (1, 1, 28, 28)
_ANSWERED = ("OK", "200")
_TIMEOUT_S = 10.0

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call.

    Attributes:
        headers: Metadata over gRPC, headers over HTTP.
        where: A method over gRPC, a path over HTTP.
        content: A message over gRPC, or what is posted as JSON over HTTP; None asks over HTTP without any.
        harmless: A model whose answer is no harm, because its caller may use it.
    """

    headers: Headers
    where: str
    content: bytes | Mapping[str, Any] | None = None
    harmless: str = ""


@dataclass(frozen=True, slots=True)
class Intrusion:
    """One kind of attempt, and what became of it.

    Attributes:
        name: What was tried.
        tries: How often.
        answered: How many were answered like a good request.
        statuses: How the others were refused, and how often.
    """

    name: str
    tries: int
    answered: int
    statuses: Mapping[str, int]


def write_tokens(path: Path, *, with_revoked: bool) -> None:
    """Write a tokens file with the three tenants, or with two of them once a token is revoked."""
    tenants: list[dict[str, Any]] = [
        {"name": "all", "tokens": [_digest(ALL)]},
        {"name": "limited", "tokens": [_digest(LIMITED)], "models": ["fashion"]},
    ]
    if with_revoked:
        tenants.append({"name": "gone", "tokens": [_digest(REVOKED)]})
    path.write_text(yaml.safe_dump({"tenants": tenants}))


def _digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def infer_message(model: str, shape: Sequence[int] = _ITEM, **parameters: str) -> bytes:
    """Return a ModelInferRequest of zeros, whatever shape it claims; ``parameters`` are its input's."""
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(4 * 784)])
    tensor = request.inputs.add(name="pixels", datatype="FP32", shape=shape)
    for name, value in parameters.items():
        tensor.parameters[name].string_param = value
    message: bytes = request.SerializeToString()
    return message


def infer_body(shape: Sequence[int] = _ITEM, **parameters: str) -> dict[str, Any]:
    """Return what ``infer_message`` does, as JSON for HTTP."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(shape), "parameters": parameters, "data": [0.0] * 784}
    return {"inputs": [tensor]}


def _disguised(model: str) -> Iterator[bytes]:
    """Yield requests that name ``fashion``, and to some readers of protobuf another model."""
    message, named = infer_message("fashion"), encode_varint(len(model)) + model.encode()
    yield message + b"\x0a" + named  # a field that comes twice: the last one counts
    yield message + b"\x8a\x80\x80\x80\x10" + named  # bits of the key beyond 32, which C++ drops
    yield message + b"\x8a\x80\x80\x80\x80\x00" + named  # a key of six bytes
    yield message + b"\x8a\x00" + named  # a key longer than it need be
    yield b"\x0a" + named + message.replace(b"\x0a\x07fashion", b"\x0a\x87\x00fashion", 1)
    yield message + b"\x0b" + b"\x0a" + named + b"\x0c"  # within a group


def _every_way_to(model: str, headers: Headers) -> Iterator[Attempt]:
    query = pb.ModelConfigRequest(name=model).SerializeToString()
    for method in ("ModelInfer", "ModelStreamInfer"):
        yield Attempt(headers, method, infer_message(model))
    for method in ("ModelConfig", "ModelMetadata", "ModelStatistics"):
        yield Attempt(headers, method, query)
    for path in ("infer", "generate", "generate_stream"):
        yield Attempt(headers, f"/v2/models/{model}/{path}", infer_body())
    for path in ("", "/config", "/stats", "/versions/1/config"):
        yield Attempt(headers, f"/v2/models/{model}{path}")


def _inferences(headers: Headers, shape: Sequence[int] = _ITEM, **parameters: str) -> Iterator[Attempt]:
    for model in ("fashion", OTHER):
        yield Attempt(headers, "ModelInfer", infer_message(model, shape, **parameters))
        yield Attempt(headers, f"/v2/models/{model}/infer", infer_body(shape, **parameters))


def _reaches(headers: Headers) -> Iterator[Attempt]:
    requests = {
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="r", key="/other", byte_size=4096),
        "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(name="r"),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="r", byte_size=9),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name=OTHER),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name=OTHER),
        "TraceSetting": pb.TraceSettingRequest(settings={"trace_file": {"value": ["/tmp/x"]}}),
        "LogSettings": pb.LogSettingsRequest(settings={"log_file": {"string_param": "/tmp/x"}}),
    }
    for method, request in requests.items():
        yield Attempt(headers, method, request.SerializeToString())
    for path in ("systemsharedmemory/region/r/register", f"repository/models/{OTHER}/unload", "logging"):
        yield Attempt(headers, f"/v2/{path}", {"key": "x"})


def _bearer(*tokens: str) -> Headers:
    return tuple(("authorization", f"Bearer {token}") for token in tokens)


def make_attempts() -> Mapping[str, Sequence[Attempt]]:
    """Return all attempts by their kind."""
    good, limited = _bearer(ALL), _bearer(LIMITED)
    strangers = {
        "no token": (),
        "a wrong token": _bearer("guessed"),
        "an empty token": _bearer(""),
        "another scheme": (("authorization", f"Basic {ALL}"),),
        "two tokens at once": _bearer(LIMITED, ALL),
        "a revoked token": _bearer(REVOKED),
    }
    sides = ([2**62, 4], [2**62, 2**62], [2**32, 2**32], [2**63 - 1], [-1, 1, 28, 28], [2**31, 1, 28, 28])
    paths = ("/v2/models/%61lone/infer", "/v2/models/fashion/../alone/infer", "/v2//models/alone/infer")
    return {
        **{name: tuple(_every_way_to("fashion", headers)) for name, headers in strangers.items()},
        "another tenant's model": tuple(_every_way_to(OTHER, limited)),
        "another tenant's model, disguised": tuple(
            Attempt(limited, method, message, harmless="fashion")
            for message in _disguised(OTHER)
            for method in ("ModelInfer", "ModelStreamInfer")
        ),
        "another tenant's model, by its path": tuple(Attempt(limited, path, infer_body()) for path in paths),
        "a shape that overflows": tuple(attempt for shape in sides for attempt in _inferences(good, shape)),
        "a region of shared memory": tuple(
            _inferences(good, shared_memory_region="other", shared_memory_byte_size="3136")
        ),
        "what reaches into servers": tuple(_reaches(good)),
    }


async def call_over_grpc(channel: Any, attempt: Attempt) -> str:
    """Return the name of the status; an error inside a stream's answer is INVALID_ARGUMENT."""
    model = ""
    path, more = f"/{SERVICE}/{attempt.where}", {"metadata": attempt.headers, "timeout": _TIMEOUT_S}
    try:
        if attempt.where != "ModelStreamInfer":
            answer = await channel.unary_unary(path)(attempt.content, **more)
            model = pb.ModelInferResponse.FromString(answer).model_name if attempt.harmless else ""
        else:
            # One message at once: grpcio calls it an error of its own when a call ends while it still writes.
            async for answer in channel.unary_stream(path)(attempt.content, **more):
                found = pb.ModelStreamInferResponse.FromString(answer)
                if found.error_message:
                    return "INVALID_ARGUMENT"
                model = found.infer_response.model_name
    except grpc.aio.AioRpcError as exc:
        return str(exc.code().name)
    return f"answered as {model}" if model and model == attempt.harmless else "OK"


async def call_over_http(session: aiohttp.ClientSession, attempt: Attempt) -> str:
    """Return the number of the status."""
    method, url = "GET" if attempt.content is None else "POST", URL(f"{attempt.where}", encoded=True)
    timeout = aiohttp.ClientTimeout(_TIMEOUT_S)
    more: dict[str, Any] = {"json": attempt.content, "headers": attempt.headers, "timeout": timeout}
    async with session.request(method, url, **more) as response:
        await response.read()
        return str(response.status)


async def try_all(
    grpc_address: str, http_address: str, attempts: Mapping[str, Sequence[Attempt]]
) -> tuple[Intrusion, ...]:
    """Make all attempts, one after another."""
    found = []
    channel: Any
    async with (
        grpc.aio.insecure_channel(grpc_address) as channel,
        aiohttp.ClientSession(f"http://{http_address}") as session,
    ):
        for name, calls in attempts.items():
            statuses: Counter[str] = Counter()
            for attempt in calls:
                is_grpc = isinstance(attempt.content, bytes)
                statuses[await (call_over_grpc(channel, attempt) if is_grpc else call_over_http(session, attempt))] += 1
            answered = sum(statuses.pop(status, 0) for status in _ANSWERED)
            found.append(Intrusion(name, len(calls), answered, dict(statuses)))
    return tuple(found)
