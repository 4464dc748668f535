"""One ONNX file as a variant of a family: read whole, renamed where asked, and opened by ONNX Runtime.

The bytes that are served are the file's own unless tensors are renamed, it is newer than all Triton images read, or
weights lie in further files: those are brought into the one file, because a digest of it must say which weights answer.
What was converted to older operators has to answer as the file does (``export.importing.trial.prove_converted``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
import onnxruntime
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from export.errors import RepositoryError, VariantError, one_line
from export.repository.signature import Signature, graph_signature
from export.repository.verification import MAX_IR, MAX_OPSET, ONNX_DOMAINS
from export.width import Width

MAX_MODEL_BYTES = 2**31 - 1
"""Of a message of protobuf, and so of an ONNX file that has its weights in itself."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A file that ONNX Runtime has loaded.

    Attributes:
        label: Width and file as they were given, ``30=small.onnx``; errors begin with it.
        model: What is served: the file with all its weights, and with tensors renamed.
        session: ONNX Runtime on the CPU, over these bytes.
        signature: Inputs and outputs of the graph, all dims included, by their new names.
        renamed: The old names of those that were renamed.
        original: ONNX Runtime over the file with its own, newer operators; None where it was not converted.
    """

    width: Width
    label: str
    model: bytes
    session: onnxruntime.InferenceSession
    signature: Signature
    renamed: frozenset[str]
    original: onnxruntime.InferenceSession | None = None


def read_variant(width: Width, path: Path, renames: Mapping[str, str]) -> Variant:
    """Return a variant of a family; ``renames`` has new names by old ones, of inputs and outputs that it may lack.

    Raises VariantError for a file that is missing or no ONNX, lacks weights, is too new to be converted or can't be
    loaded.
    """
    label = f"{width}={path}"
    try:
        raw = path.read_bytes()
        proto = onnx.load_model_from_string(raw)
    except OSError as exc:
        raise VariantError(f"{label}: can't read it ({exc.strerror}); give an ONNX file") from exc
    except DecodeError as exc:
        raise VariantError(f"{label}: it is no ONNX file, or only a part of one; export it again") from exc
    if not proto.graph.node:
        raise VariantError(f"{label}: it has no operators; export it again")
    has_further_files = any(uses_external_data(tensor) for tensor in _tensors(proto.graph))
    if has_further_files:
        _load_weights(label, proto, path.parent)
    ours = {old: new for old, new in renames.items() if old in _interface(proto)}
    if ours:
        rename(proto, ours, label)
    if has_further_files or ours:
        if proto.ByteSize() > MAX_MODEL_BYTES:
            raise VariantError(f"{label}: has {proto.ByteSize()} bytes with its weights, above {MAX_MODEL_BYTES}")
        raw = proto.SerializeToString(deterministic=True)
    original = None
    if is_too_new(proto):
        original = _as_it_is(label, raw, proto)
        raw = _converted(label, proto).SerializeToString(deterministic=True)
    session = open_quietly(label, raw)
    try:
        return Variant(width, label, raw, session, graph_signature(session), frozenset(ours), original)
    except RepositoryError as exc:
        raise VariantError(f"{label}: {exc}") from exc


def is_too_new(proto: onnx.ModelProto) -> bool:
    """Return whether not all Triton images that are in use read a model."""
    return proto.ir_version > MAX_IR or _opset(proto) > MAX_OPSET


def _opset(proto: onnx.ModelProto) -> int:
    return max((entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS), default=0)


def _as_it_is(label: str, raw: bytes, proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime over a file of newer operators; raises VariantError when they are too new for it as well."""
    try:
        return open_quietly(label, raw)
    except VariantError as exc:
        raise VariantError(
            f"{label}: {_versions(proto)}, and ONNX Runtime {onnxruntime.__version__} can't load it "
            f"({one_line(exc.__cause__ or exc)}); export it with opset {MAX_OPSET} or lower"
        ) from exc


def _versions(proto: onnx.ModelProto) -> str:
    return f"has IR {proto.ir_version} and opset {_opset(proto)}, above {MAX_IR} and {MAX_OPSET}"


def _converted(label: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with operators of MAX_OPSET; raises VariantError when one of them has no older form."""
    found = _versions(proto)
    try:
        if _opset(proto) > MAX_OPSET:
            proto = onnx.version_converter.convert_version(proto, MAX_OPSET)
        proto.ir_version = min(proto.ir_version, MAX_IR)
        onnx.checker.check_model(proto)
    except Exception as exc:  # the converter raises what it likes
        raise VariantError(
            f"{label}: {found}, which not all Triton images read, and can't be converted ({one_line(exc)}); "
            f"export it with opset {MAX_OPSET} or lower"
        ) from exc
    return proto


def _load_weights(label: str, proto: onnx.ModelProto, folder: Path) -> None:
    try:
        onnx.load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as exc:
        raise VariantError(
            f"{label}: its weights lie in further files, and one can't be read ({one_line(exc)}); "
            f"put them into {folder} as they were exported"
        ) from exc


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the weights of a graph and of the graphs inside of it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else attribute.tensors)
    for inner in _inner_graphs(graph):
        yield from _tensors(inner)


def _inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _interface(proto: onnx.ModelProto) -> set[str]:
    return {value.name for value in (*proto.graph.input, *proto.graph.output)}


def rename(proto: onnx.ModelProto, names: Mapping[str, str], label: str) -> None:
    """Give inputs and outputs of a graph other names, wherever it uses them.

    Raises VariantError when a new name is that of another tensor of the graph.
    """
    taken = set(_names(proto.graph)) - names.keys()
    for old, new in names.items():
        if not new or new in taken or list(names.values()).count(new) > 1:
            raise VariantError(f"{label}: can't rename {old} to {new!r}, which another tensor has; give another name")
    _rename(proto.graph, names)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    for values in (graph.input, graph.output, graph.initializer):
        yield from (value.name for value in values)
    for inner in _inner_graphs(graph):
        yield from _names(inner)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)
    for node in graph.node:
        for found in (node.input, node.output):
            found[:] = [names.get(name, name) for name in found]
    for inner in _inner_graphs(graph):
        _rename(inner, names)


def open_quietly(label: str, model: bytes, options: onnxruntime.SessionOptions | None = None) -> Any:
    """Return a session on the CPU that logs nothing; raises VariantError when ONNX Runtime can't load the model."""
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        raise VariantError(f"{label}: ONNX Runtime can't load it ({one_line(exc)}); export it again") from exc
