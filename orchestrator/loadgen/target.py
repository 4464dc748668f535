"""What can be measured: a gateway, a Triton, or a router in the sender's own process."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
from google.protobuf import json_format
from pydantic import TypeAdapter, ValidationError

from orchestrator.config import load_fleet
from orchestrator.config.section import Address
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.loadgen.clients import ALSO, GRPC, HTTP, POLICY, ROUTER
from orchestrator.loadgen.plan import Load
from orchestrator.router import Router
from orchestrator.snapshot import Preprocessing, TensorSpec
from orchestrator.triton.families import read_labels, read_preprocessing, read_spec
from orchestrator.triton.messages import SERVICE, ModelConfig, pb
from orchestrator.validation import describe_problems

_ADDRESS: Final = TypeAdapter[str](Address)
_ASK_S = 5.0
_TRITON = "triton"
"""What a Triton calls itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: a model or a family of a gateway, of a Triton, or of a router in the sender's process.

    Attributes:
        kind: How it is asked, see orchestrator.loadgen.clients.
        address: ``host:port``, or several with ``+`` between them that are asked in turn; or the path of a fleet file.
        model: The name of the model or family.
        inputs: What an item is, without a batch dimension.
        outputs: The names of its outputs; of a classifier the first has the scores of classes.
        is_batching: Whether its tensors have a batch dimension.
        is_gateway: Whether it understands deadlines.
        preprocessing: What image files go through; None when nobody said.
        labels: The names of its classes; empty when nobody said.
        metric: What its quality was measured by; None when nobody said.
    """

    kind: str
    address: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    is_batching: bool
    is_gateway: bool
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class SetUp:
    """Something that can be asked.

    Attributes:
        name: What it is called in tables.
        target: Where and how it is asked.
        parameters: Of its requests, beside those of the load.
    """

    name: str
    target: Target
    parameters: tuple[tuple[str, str | int | float], ...] = ()

    def of(self, load: Load) -> Load:
        """Return a load as this set-up gets it."""
        return replace(load, parameters={**load.parameters, **dict(self.parameters)})


async def find_target(kind: str, address: str, model: str) -> Target:
    """Return a target by what it says of a model; of a router what its Tritons say.

    Raises:
        ServerUnavailableError: Nobody answers there, or there is no such model.
        ConfigError: The kind is none, an address can't be one, or the model has a tensor that can't be sent.
    """
    match kind:
        case "grpc" | "http":
            ask = _ask_grpc if kind == GRPC else _ask_http
            places = [_check_address(kind, place) for place in address.split(ALSO)]
            config, name = (await asyncio.gather(*(ask(place, model) for place in places)))[0]
        case "router":
            return await _ask_router(address, model)
        case _:
            raise ConfigError(f"unknown kind of target {kind!r}; known are {GRPC}, {HTTP} and {ROUTER}")
    said = {key: value.string_value for key, value in config.parameters.items()}
    try:
        return Target(
            kind,
            address,
            model,
            tuple(map(read_spec, config.input)),
            tuple(tensor.name for tensor in config.output),
            config.max_batch_size > 0,
            name != _TRITON,
            read_preprocessing(said.get("slim.preprocessing")),
            read_labels(said.get("slim.labels", "[]")),
            said.get("slim.metric"),
        )
    except ValueError as exc:
        raise ConfigError(f"model {model!r} at {address} can't be asked: {exc}") from exc


def only_place(places: Mapping[str, str | Path | None]) -> tuple[str, str]:
    """Return the one kind of target for which a place is given, and that; raises ConfigError unless it is one."""
    given = [(kind, str(place)) for kind, place in places.items() if place is not None]
    if len(given) != 1:
        raise ConfigError(f"{len(given)} targets are given; give one of --grpc, --http and --fleet")
    return given[0]


def decided_by(policy: str | None, load: Load, kind: str) -> Load:
    """Return a load for a kind of target that a policy decides about, where one is given; raises ConfigError."""
    if policy is None:
        return load
    if kind != ROUTER:
        raise ConfigError("--policy goes with --fleet; what decides in a gateway stands in its fleet file")
    return replace(load, parameters={POLICY: policy})


@dataclass(frozen=True, slots=True)
class FamilyShare:
    """One of several families that get a load at once.

    Attributes:
        share: Its part of the requests, relative to the others'.
        sample: What is sent to it; None: what is sent to all.
    """

    name: str
    share: float = 1.0
    sample: Path | None = None


def parse_families(texts: Sequence[str]) -> list[FamilyShare]:
    """Return what several ``NAME[:SHARE][=SAMPLE]`` say; raises ConfigError when one is none, or names one again."""
    found = [_parse_family(text) for text in texts]
    for name, times in _repeated([family.name for family in found]):
        raise ConfigError(f"--family {name} is given {times} times; give it once, with its whole share")
    return found


def _parse_family(text: str) -> FamilyShare:
    named, has_sample, sample = text.partition("=")
    name, has_share, share = named.partition(":")
    try:
        number = float(share) if has_share else 1.0
    except ValueError:
        number = math.nan
    if not name or not 0 < number < math.inf or (has_sample and not sample):
        raise ConfigError(f"--family {text!r} is no NAME[:SHARE][=SAMPLE] with a share above 0")
    return FamilyShare(name, number, Path(sample) if has_sample else None)


def check_names(texts: Sequence[str]) -> None:
    """Raise ConfigError if two set-ups have one name, because their figures would be taken together."""
    for name, times in _repeated([text.partition("=")[0] for text in texts]):
        raise ConfigError(f"{times} set-ups are named {name!r}; give each a name of its own")


def _repeated(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, times) for name, times in Counter(names).items() if times > 1]


async def parse_set_up(text: str) -> SetUp:
    """Return what ``NAME=KIND:PLACE[:MODEL][,PARAMETER=VALUE…]`` names, after asking it; raises as ``find_target``.

    Of a router the last parameter may be ``policy=POLICY``, with the policy's own commas.
    """
    name, is_named, rest = text.partition("=")
    rest, _, policy = rest.partition(f",{POLICY}=") if rest.startswith(f"{ROUTER}:") else (rest, "", "")
    place, *parameters = rest.split(",")
    kind, _, place = place.partition(":")
    host, _, last = place.rpartition(":")
    is_whole = os.path.exists(place) if kind == ROUTER else last.isdecimal()
    address, model = (place, "fashion") if is_whole or not host else (host, last)
    pairs = [parameter.partition("=") for parameter in parameters]
    if not is_named or not place or not all(key and equals and value for key, equals, value in pairs):
        raise ConfigError(f"set-up {text!r} is no NAME=KIND:PLACE[:MODEL][,PARAMETER=VALUE…]")
    target = await find_target(kind, address, model)
    own = ((POLICY, policy),) if policy else ()
    return SetUp(name, target, (*((key, _number_or_text(value)) for key, _, value in pairs), *own))


def _number_or_text(value: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _check_address(kind: str, address: str) -> str:
    try:
        return _ADDRESS.validate_python(address)
    except ValidationError as exc:
        (problem,) = describe_problems(exc, str)
        raise ConfigError(f"{kind} address: {problem.text}") from exc


async def _ask_grpc(address: str, model: str) -> tuple[ModelConfig, str]:
    channel = GrpcChannel(address)
    try:
        request = pb.ModelConfigRequest(name=model).SerializeToString()
        async with asyncio.timeout(_ASK_S):
            answer = await channel.call(f"/{SERVICE}/ModelConfig", request)
            server = await channel.call(f"/{SERVICE}/ServerMetadata", b"")
    except (RpcError, TimeoutError) as exc:
        raise _no_answer(address, model, exc) from exc
    finally:
        await channel.close(drain_s=0)
    return pb.ModelConfigResponse.FromString(answer).config, pb.ServerMetadataResponse.FromString(server).name


async def _ask_http(address: str, model: str) -> tuple[ModelConfig, str]:
    timeout = aiohttp.ClientTimeout(total=_ASK_S)
    try:
        async with aiohttp.ClientSession(f"http://{address}", timeout=timeout, raise_for_status=True) as session:
            async with session.get(f"/v2/models/{model}/config") as answer:
                config = json_format.ParseDict(await answer.json(), ModelConfig(), ignore_unknown_fields=True)
            async with session.get("/v2") as answer:
                return config, (await answer.json())["name"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, json_format.ParseError) as exc:
        raise _no_answer(address, model, exc) from exc


async def _ask_router(fleet: str, family: str) -> Target:
    async with Router.from_fleet(load_fleet(Path(fleet))) as router:
        model = router.models(family)[0]
    about = model.preprocessing, model.labels
    outputs = tuple(output.name for output in model.outputs)
    return Target(ROUTER, fleet, family, model.inputs, outputs, model.is_batching, True, *about)


def _no_answer(address: str, model: str, error: Exception) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"{address} says nothing of model {model!r} ({error or f'no answer in {_ASK_S:g} s'}); is it running there?"
    )
