"""Mutated ModelInferRequests, and what our reader and protobuf's own make of them.

``python -m tests.gateway.protocol.mutated_messages --count 1000000`` compares as many as wanted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click
from google.protobuf.message import DecodeError

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.wire import MalformedMessageError, check_inference, read_address

_KEYS = [number << 3 | wire_type for number in (*range(9), 15, 16, 2**29 - 1) for wire_type in range(8)]
_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def _varint(value: int, *, pad: int = 0) -> bytes:
    """Return a number as protobuf writes it, with so many needless bytes."""
    parts = []
    while value >= 0x80 or pad > 0:
        parts.append(value & 0x7F | 0x80)
        pad -= value < 0x80
        value >>= 7
    return bytes([*parts, value])


def _seeds(rng: random.Random) -> list[bytes]:
    found = []
    for shape in ([1, 28, 28], [2**62, 4], [-1, 3], [2**31, 2**31], []):
        request = pb.ModelInferRequest(model_name="fashion", model_version="1", id="7", raw_input_contents=[b"abcd"])
        tensor = request.inputs.add(name="input", datatype="FP32", shape=shape)
        tensor.contents.fp32_contents.extend([1.0, 2.0])
        request.outputs.add(name="output").parameters["classification"].int64_param = 3
        request.parameters["sequence_id"].int64_param = rng.randrange(2**63)
        request.parameters["slim_deadline_ms"].double_param = 50.0
        if shape == []:
            tensor.parameters["shared_memory_region"].string_param = "r"
            request.outputs[0].parameters["shared_memory_region"].string_param = "r"
        found.append(request.SerializeToString())
    return found


def _field(rng: random.Random) -> bytes:
    """Return a whole field, now and then one that only some readers understand."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="input", shape=[rng.choice((1, 4, 2**62, -1)), 2])
    parts = [
        pb.ModelInferRequest(model_name="other", model_version="2").SerializeToString(),
        pb.ModelInferRequest(inputs=[tensor]).SerializeToString(),
        pb.ModelInferRequest(parameters={"sequence_id": pb.InferParameter(string_param="s")}).SerializeToString(),
        b"\x2a\x06\x18" + _varint(rng.choice((2, 2**62)), pad=4)[:5].ljust(5, b"\x01"),
        _varint(rng.choice(_KEYS) & ~7, pad=rng.choice((0, 1, 4))) + _varint(rng.choice(_NUMBERS)),
    ]
    return rng.choice(parts)


def _snippet(rng: random.Random) -> bytes:
    number = _varint(rng.choice(_NUMBERS), pad=rng.choice((0, 0, 0, 1, 4, 8)))
    key = _varint(rng.choice(_KEYS) + rng.choice((0, 0, 0, 2**32, 2**35)), pad=rng.choice((0, 0, 0, 1, 3, 4)))
    body = rng.choice((b"other", number, pb.ModelInferRequest.InferInputTensor(shape=[2**62, 4]).SerializeToString()))
    return rng.choice((number, key, key + number, key + _varint(len(body), pad=rng.choice((0, 0, 3, 4, 5))) + body))


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """Yield so many damaged requests, the same for the same seed."""
    rng = random.Random(seed)
    seeds = _seeds(rng)
    for _ in range(count):
        message = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if rng.random() < 0.5:
                message = bytearray(rng.choice((message + _field(rng), _field(rng) + message)))
                continue
            at, other = sorted((rng.randrange(len(message) + 1), rng.randrange(len(message) + 1)))
            match rng.randrange(7):
                case 0 if at < len(message):
                    message[at] ^= 1 << rng.randrange(8)
                case 1 if at < len(message):
                    message[at] = rng.randrange(256)
                case 2:
                    message[at:at] = _snippet(rng)
                case 3:
                    del message[at:other]
                case 4:
                    message += message[at:other]
                case 5:
                    message += _snippet(rng)
                case _:
                    message[at:other] = _snippet(rng)
        yield bytes(message)


def _judged(parsed: Any) -> tuple[str, str, bytes, bool]:
    """Return what protobuf's reading of a request comes to: model, version, sequence, whether it does harm."""
    harms = False
    for tensor in parsed.inputs:
        elements = 1
        for side in tensor.shape:
            elements *= max(0, side)
            harms |= elements >= 2**63
    harms |= any("shared_memory_region" in tensor.parameters for tensor in (*parsed.inputs, *parsed.outputs))
    parsed.DiscardUnknownFields()
    sequence = parsed.parameters["sequence_id"].SerializeToString() if "sequence_id" in parsed.parameters else b""
    return parsed.model_name, parsed.model_version, sequence, harms


def compare(message: bytes) -> str:
    """Return what becomes of a message.

    Raises:
        AssertionError: Our reader took it for another request than protobuf's does.
    """
    try:
        parsed = pb.ModelInferRequest.FromString(message)
    except DecodeError:
        parsed = None
    try:
        address = read_address(message)
        harms = False
        try:
            check_inference(message)
        except ConfigError:
            harms = True
    except MalformedMessageError:
        return "refused" if parsed is None else "refused here alone"
    if parsed is None:
        return "refused by protobuf alone"
    assert (address.model, address.version, address.sequence, harms) == _judged(parsed), message.hex()
    return "harmful" if harms else "read alike"


@click.command()
@click.option("--count", type=int, default=1_000_000)
@click.option("--seed", type=int, default=0)
def main(count: int, seed: int) -> None:
    """Compare both readers on mutated requests and say how many ended how."""
    found: Counter[str] = Counter()
    for number, message in enumerate(mutated(count, seed), 1):
        found[compare(message)] += 1
        if number % 100_000 == 0 or number == count:
            click.echo(f"{number}: {dict(found)}")


if __name__ == "__main__":
    main()
