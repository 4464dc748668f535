"""Every parser that bytes from outside reach, as a function of bytes that may refuse them and must not fail otherwise.

A target returns for bytes that are understood and for bytes that are refused as documented. Any other exception is a
finding, and so is a difference between our reader and another one of the same format. ``make fuzz`` searches for
such bytes; what it kept is tried in every run of the tests.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import hpack

from orchestrator.config.fleet import parse_fleet
from orchestrator.config.tenants import parse_tenants
from orchestrator.errors import SlimError
from orchestrator.gateway.http.body import decompress
from orchestrator.gateway.http.codec import parse_generate, parse_infer, parse_raw, split_body
from orchestrator.gateway.http.json_text import count_values, dump_json, load_json
from orchestrator.gateway.peers.report import GatewayReport
from orchestrator.gateway.protocol.family import merge_widths, read_request
from orchestrator.gateway.protocol.messages import parse, pb
from orchestrator.gateway.protocol.tensors import DATATYPES, decode_bytes, from_json, to_json
from orchestrator.http2.frames import PREFACE, ErrorCode, ViolationError
from orchestrator.http2.grpc.wire import (
    next_message_bytes,
    read_request_head,
    read_response_head,
    split_message,
    unpack_message,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.policies.learned.policy_file import read_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.profile.document import parse_profile
from orchestrator.triton.counters import parse_counters
from orchestrator.triton.infer_wire import encode_elements
from tests.fakes.servers import served_model
from tests.fuzzing.http_bytes import serve_bytes
from tests.fuzzing.local_bytes import authorizations, demands, socket_activations, socket_offers
from tests.fuzzing.server_bytes import served_models, server_answers, server_frames
from tests.gateway.protocol.mutated_messages import compare
from tests.http2.peer import OurEnd

Target = Callable[[bytes], None]

_MOST_BYTES = 2**16
_MOST_PIECE_BYTES = 2**20
_MOST_LIST_BYTES = 4096
_FAMILY = merge_widths([served_model(25), served_model(100)])
_METADATA = pb.ModelMetadataResponse(
    name="text",
    inputs=[
        {"name": "prompt", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "scale", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "flags", "datatype": "BOOL", "shape": [-1, 2]},
    ],
)
_CONFIG = pb.ModelConfigResponse(config={"name": "text", "max_batch_size": 4}).config
_RAW_CONFIGS = [
    pb.ModelConfigResponse(
        config={"name": "raw", "max_batch_size": 4, "input": [{"name": "x", "data_type": kind, "dims": dims}]}
    ).config
    for kind, dims in (("TYPE_FP32", [-1, 2]), ("TYPE_STRING", [1]), ("TYPE_STRING", [-1]), ("TYPE_UINT8", [4]))
]


def http2_frames(data: bytes) -> None:
    """Frames of a client, in pieces; the first byte says where they are torn."""
    end = OurEnd(max_streams=8)
    at = data[0] if data else 0
    for piece in (PREFACE, data[1 : 1 + at], data[1 + at :]):
        end.connection.receive(piece)
        assert len(end.connection.streams) <= 8
    end.connection.check()


def header_blocks(data: bytes) -> None:
    """Header blocks of one connection, each after its length in a byte; ``hpack`` is asked as well."""
    ours: HeaderDecoder[Any] = HeaderDecoder(list, max_list_bytes=_MOST_LIST_BYTES)
    heads = HeaderDecoder(partial(read_request_head, max_list_bytes=_MOST_LIST_BYTES), max_list_bytes=_MOST_LIST_BYTES)
    answers = HeaderDecoder(read_response_head, max_list_bytes=_MOST_LIST_BYTES)
    theirs = hpack.Decoder(max_header_list_size=2**20)
    while data:
        block, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        try:
            found = ours.decode(block)
        except ViolationError as exc:
            assert exc.code in (ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM)
            return
        assert found == [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        for decoder in (heads, answers):
            with suppress(ViolationError):
                decoder.decode(block)


def grpc_messages(data: bytes) -> None:
    """Messages of one call with their prefixes; the first byte says how they are compressed."""
    encoding = ("gzip", "deflate", "identity", "br")[data[0] % 4] if data else "gzip"
    buffer = bytearray(data[1:])
    with suppress(SlimError):
        while (size := next_message_bytes(buffer, _MOST_BYTES)) is not None:
            flag, payload, buffer = split_message(buffer, size)
            assert len(unpack_message(flag, payload, encoding, _MOST_BYTES)) <= _MOST_BYTES


def inference_requests(data: bytes) -> None:
    """A ModelInferRequest: what it asks for, by us and by protobuf, and what a family makes of it."""
    compare(data)
    with suppress(SlimError):
        found = read_request(parse(pb.ModelInferRequest, data), _FAMILY)
        assert found.inputs["pixels"].shape[1:] == _FAMILY.inputs[0].shape


def http_requests(data: bytes) -> None:
    """What a client sends over HTTP/1.1, headers and framing included; the first byte says where it is torn."""
    at = 4 * data[0] if data else 0
    asyncio.run(serve_bytes(data[1 : 1 + at], data[1 + at :]))


def json_requests(data: bytes) -> None:
    """The JSON and binary data of an inference over HTTP; the first two bytes say where the binary data begins."""
    at = int.from_bytes(data[:2], "big")
    body = data[2:]
    with suppress(SlimError):
        text, binary = split_body(body, at if at else None)
        found = parse_infer("fashion", "", text, binary)
        read_request(found.request, _FAMILY, found.raws)


def generate_requests(data: bytes) -> None:
    """The plain JSON of ``generate``."""
    with suppress(SlimError):
        content = load_json(data)
        found = parse_generate("text", "", content, _CONFIG, _METADATA)
        assert len(found.request.inputs) == len(found.raws)
        assert count_values(data, len(data)) >= len(content)
        assert load_json(dump_json(content)).keys() == content.keys()


def raw_requests(data: bytes) -> None:
    """A body that is one tensor; the first byte says of which model."""
    config = _RAW_CONFIGS[data[0] % len(_RAW_CONFIGS)] if data else _RAW_CONFIGS[0]
    with suppress(SlimError):
        parse_raw("raw", "", config, data[1:])


def _values(datatype: str, raw: bytes) -> list[Any]:
    return [value for part in to_json("x", datatype, raw) for value in part]


def tensors(data: bytes) -> None:
    """The elements of a tensor, as bytes and as JSON; the first byte says of which datatype."""
    names = sorted(DATATYPES)
    name = names[data[0] % len(names)] if data else "BYTES"
    with suppress(SlimError):
        elements = decode_bytes(data[1:], "x")
        assert encode_elements(elements) == data[1:]
    with suppress(SlimError):
        values = _values(name, data[1:])
        raw = from_json("x", name, [len(values)], values)
        assert _values(name, raw) == values or any(value != value for value in values)


def compressed_bodies(data: bytes) -> None:
    """A body over HTTP; the first byte says how it is compressed."""
    encoding = ("gzip", "deflate", "br")[data[0] % 3] if data else "gzip"
    with suppress(SlimError):
        pieces = decompress(data[1:], encoding)
        assert all(0 < len(piece) <= _MOST_PIECE_BYTES for piece in islice(pieces, 4))


def fleet_files(data: bytes) -> None:
    """A fleet.yaml."""
    with suppress(SlimError):
        parse_fleet(data.decode(errors="replace"))


def tokens_files(data: bytes) -> None:
    """A tokens.yaml."""
    with suppress(SlimError):
        parse_tenants(data.decode(errors="replace"))


def policy_names(data: bytes) -> None:
    """The name of a policy with its knobs."""
    with suppress(SlimError):
        parse_policy(data.decode(errors="replace"))


def policy_files(data: bytes) -> None:
    """A file of a learned policy."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(dir=folder, prefix="fuzz-policy-") as file:
        file.write(data)
        file.flush()
        with suppress(SlimError):
            read_policy_file(Path(file.name))


def profile_files(data: bytes) -> None:
    """A profile.json."""
    with suppress(SlimError):
        parse_profile(data)


def metrics_pages(data: bytes) -> None:
    """What a Triton answers at ``/metrics``."""
    with suppress(ValueError):
        parse_counters(data.decode(errors="replace"))


def peer_reports(data: bytes) -> None:
    """What another gateway tells of itself; one that is understood is written as it was read."""
    with suppress(SlimError):
        report = GatewayReport.decode(data)
        assert GatewayReport.decode(report.encode()) == report
        assert report.load.backlog_s >= 0


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        http2_frames,
        header_blocks,
        grpc_messages,
        inference_requests,
        authorizations,
        http_requests,
        json_requests,
        generate_requests,
        raw_requests,
        tensors,
        compressed_bodies,
        fleet_files,
        tokens_files,
        policy_names,
        policy_files,
        profile_files,
        metrics_pages,
        server_frames,
        server_answers,
        served_models,
        demands,
        socket_offers,
        socket_activations,
        peer_reports,
    )
}
