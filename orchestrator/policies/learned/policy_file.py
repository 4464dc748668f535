"""The file of a learned policy: weights, what they expect to see, and where they come from.

A NumPy .npz, which is a zip of plain arrays: each has a checksum, nothing in it is executed (no pickle), and any NumPy
reads it. ``header`` is JSON as bytes; every other array is a weight or a range. ONNX was refused: onnxruntime takes
longer to be called than this network takes to run, and a header would have to live in its free-form metadata.

Reading is strict. A file that is cut off, of another format or feature table, with a weight too many, missing, of
another shape or not finite is refused with what to do; so a policy that loads is one that was trained on what it will
be shown.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.files import read_file, write_atomically
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import SHAPES, Floats32
from orchestrator.policies.learned.paper import paper_shapes

FORMAT: Final = "slim-policy"
FORMAT_VERSION: Final = 1
SLIM: Final = "ppo-slim"
PAPER: Final = "ppo-paper"
RULE: Final = "rule"
"""Kind of a file that names a rule; it has no weights."""
LEARNED_NAMES: Final = (SLIM, PAPER)

_RANGES: Final = "range.low", "range.high"
_MOST_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class PolicyFile:
    """A learned policy as it is kept.

    Attributes:
        kind: ``ppo-slim``, ``ppo-paper`` or ``rule``.
        base: the policy that ppo-slim is a residual on, and that says what is masked; the one that ppo-paper began as,
            which decides where its choices are impossible; the spec of a rule.
        weights: by name; see orchestrator.policies.learned.network.SHAPES and .paper.paper_shapes.
        low, high: float32 [FEATURES + CONTEXT], of what was seen in training.
        preference: weights of accuracy, latency and energy for requests that bring none; they add up to 1. None: those
            that a fixed price of joules in accuracy gives on the fleet, see orchestrator.policies.learned.decide.
        strength: of the base policy's choice in the scores of ppo-slim.
        fleet: servers, widths and batch choices of ppo-paper; empty for ppo-slim, which serves any.
        widths: those widths in percent, ascending; empty where a file does not say.
        provenance: how it was made, as JSON values.
        validation: scores on the validation scenarios, as JSON values; empty when there were none.
    """

    kind: str
    base: str
    weights: Mapping[str, Floats32]
    low: Floats32
    high: Floats32
    preference: tuple[float, float, float] | None = None
    strength: float = 5.0
    fleet: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)


def write_policy_file(path: Path, policy: PolicyFile) -> None:
    """Write a policy; the file is there whole or not at all; raises ConfigError when it can't be written."""
    arrays = {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in policy.weights.items()}
    arrays |= dict(zip(_RANGES, (policy.low, policy.high), strict=True))
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": policy.kind,
        "features_version": feat.VERSION,
        "features": feat.FEATURE_NAMES,
        "context": feat.CONTEXT_NAMES,
        "base": policy.base,
        "preference": policy.preference,
        "strength": policy.strength,
        "fleet": policy.fleet,
        "widths": policy.widths,
        "provenance": dict(policy.provenance),
        "validation": dict(policy.validation),
        "sha256": _digest(arrays),
    }
    encoded = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header=encoded, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as exc:
        raise ConfigError(f"can't write the policy {path} ({exc.strerror}); give another path") from exc


def read_policy_file(path: Path) -> PolicyFile:
    """Return the policy of a file.

    Raises:
        ConfigError: when it can't be read, is damaged, or was made for other features or another format.
    """
    header, arrays = _read_arrays(path)
    _check_header(path, header)
    try:
        found = PolicyFile(
            kind=str(header["kind"]),
            base=str(header["base"]),
            weights={name: array for name, array in arrays.items() if name not in _RANGES},
            low=arrays[_RANGES[0]],
            high=arrays[_RANGES[1]],
            preference=_preference(header["preference"]),
            strength=float(header["strength"]),
            fleet=tuple(int(n) for n in header["fleet"]),
            widths=tuple(int(n) for n in header.get("widths", ())),
            provenance=dict(header["provenance"]),
            validation=dict(header["validation"]),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
        raise _refused(path, f"its header is incomplete ({type(exc).__name__}: {exc})") from exc
    _check_arrays(path, found)
    if header.get("sha256") != _digest(arrays):
        raise _refused(path, "its weights are not those that it was written with")
    return found


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"can't use the policy {path}: {why}; copy it again, or train one with 'slimsched train-router'")


def _read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Floats32]]:
    try:
        data = read_file(path, most_bytes=_MOST_BYTES)
    except OSError as exc:
        raise ConfigError(f"can't read the policy {path} ({exc.strerror}); check router.policy_file") from exc
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            if sum(info.file_size for info in packed.infolist()) > _MOST_BYTES:
                raise _refused(path, f"it unpacks to more than {_MOST_BYTES // 2**20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        header = json.loads(bytes(arrays.pop("header")))
    except ConfigError:
        raise
    except Exception as exc:  # zipfile, zlib and numpy raise a dozen kinds for a damaged file, and document few
        raise _refused(path, f"it is damaged or no policy ({type(exc).__name__})") from exc
    if not isinstance(header, dict):
        raise _refused(path, "its header is no mapping")
    return header, arrays


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT or header.get("kind") not in (*LEARNED_NAMES, RULE):
        raise _refused(path, f"it is a {header.get('format')!r} of kind {header.get('kind')!r}, not a {FORMAT}")
    if header.get("format_version") != FORMAT_VERSION:
        raise _refused(path, f"format_version is {header.get('format_version')!r}, this version reads {FORMAT_VERSION}")
    if header.get("features_version") != feat.VERSION:
        raise _refused(
            path, f"features_version is {header.get('features_version')!r}, this router shows {feat.VERSION}"
        )
    if header.get("features") != list(feat.FEATURE_NAMES) or header.get("context") != list(feat.CONTEXT_NAMES):
        raise _refused(path, "its feature table is not the one of this router")


def _check_arrays(path: Path, policy: PolicyFile) -> None:
    shapes: Mapping[str, tuple[int, ...]] = {} if policy.kind == RULE else SHAPES
    if policy.kind == PAPER:
        if len(policy.fleet) != 3 or min(policy.fleet) < 1:
            raise _refused(path, f"fleet is {list(policy.fleet)}, not servers, widths and batch choices")
        _, width_count, _ = policy.fleet
        if policy.widths and len(policy.widths) != width_count:
            raise _refused(path, f"widths are {list(policy.widths)}, not the {width_count} of its fleet")
        if "out.weight" in policy.weights:
            raise _refused(path, "its batches are of how many are sent; they are of how many are waited for now")
        shapes = paper_shapes(*policy.fleet)
    if set(policy.weights) != set(shapes):
        other = sorted(set(policy.weights) ^ set(shapes))
        raise _refused(path, f"weights are missing or unknown: {', '.join(other)}")
    expected = {**shapes, **dict.fromkeys(_RANGES, (feat.FEATURES + feat.CONTEXT,))}
    for name, array in {**policy.weights, _RANGES[0]: policy.low, _RANGES[1]: policy.high}.items():
        if array.dtype != np.float32 or array.shape != expected[name]:
            raise _refused(path, f"{name} is {array.dtype} {list(array.shape)}, not float32 {list(expected[name])}")
        if not np.isfinite(array).all():
            raise _refused(path, f"{name} holds numbers that are not finite")
    if not math.isfinite(policy.strength) or policy.strength < 0:
        raise _refused(path, f"strength is {policy.strength}, not a finite number from 0 on")


def _preference(values: Any) -> tuple[float, float, float] | None:
    if values is None:
        return None
    accuracy, latency, energy = (float(v) for v in values)
    if not (min(accuracy, latency, energy) >= 0 and abs(accuracy + latency + energy - 1) < 1e-6):
        raise ValueError(f"preference {values} does not add up to 1")
    return accuracy, latency, energy


def _digest(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
