"""What must hold before the embedded `onnxruntime` backend serves a model: config, ONNX file and machine agree.

The rules are those of the C++ backend (onnxruntime_backend, `ValidateInputs`, `ValidateOutputs` and
`CompareDimsSupported`, as its sources stood in 2026): the number of inputs is exact, names and dtypes match, a
dimension that the model fixes may not differ, an output's dims must equal the model's exactly, a declared output must
exist but not every output of the model need be declared. A config that passes here and fails there would be found out
only on the GPU host, so the check is never laxer; it is stricter in one place, where the C++ backend reads "4x" as 4.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

SLOWDOWN_VARIABLE = "SLIM_SLOWDOWN"
DEVICE_LOCK_VARIABLE = "SLIM_DEVICE_LOCK"

ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
TRITON_TYPES = {onnx_type: triton_type for triton_type, onnx_type in ONNX_TYPES.items()}

# Triton's numbering of graph optimisation levels, as the C++ backend reads it.
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# Parts of a config that would need code of their own; serving them wrongly would be worse than refusing.
UNSUPPORTED_FIELDS = ("batch_input", "batch_output", "sequence_batching", "ensemble_scheduling")


class LoadError(ValueError):
    """The config, the model file and this machine do not fit together; the model must not become ready."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the ONNX file declares it; -1 stands for a dimension that it leaves open."""

    name: str
    onnx_type: str
    shape: tuple[int, ...]


def read_specs(arguments: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Translate ONNX Runtime's description of inputs or outputs."""
    return tuple(
        TensorSpec(node.name, node.type, tuple(d if isinstance(d, int) else -1 for d in node.shape or ()))
        for node in arguments
    )


def validate_config(
    config: Mapping[str, Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    overridable: Sequence[TensorSpec] = (),
) -> None:
    """Check a model configuration against the signature of its ONNX file, as the C++ backend does.

    Raises LoadError when the two differ; the message names the tensor and both sides.
    """
    for field in UNSUPPORTED_FIELDS:
        if config.get(field):
            raise LoadError(f"{field} is not supported by the embedded onnxruntime backend; leave it out")
    if len(config["input"]) != len(inputs):
        raise LoadError(
            f"configuration expects {len(config['input'])} inputs, model provides {len(inputs)}: "
            f"{', '.join(spec.name for spec in inputs)}"
        )
    if not config["output"]:
        raise LoadError("configuration declares no output")
    is_batching = int(config.get("max_batch_size", 0)) > 0
    allowed = {spec.name: spec for spec in (*inputs, *overridable)}
    for io in config["input"]:
        _validate_input(io, is_batching)
        _validate_tensor("input", io, allowed, is_batching)
    for io in config["output"]:
        _validate_tensor("output", io, {spec.name: spec for spec in outputs}, is_batching)


def _validate_input(io: Mapping[str, Any], is_batching: bool) -> None:
    if io.get("allow_ragged_batch"):
        raise LoadError(f"input '{io['name']}': allow_ragged_batch is not supported by the embedded backend")
    if io.get("optional") and is_batching:
        raise LoadError(f"optional input '{io['name']}' is not supported for models that support batching")


def _validate_tensor(role: str, io: Mapping[str, Any], specs: Mapping[str, TensorSpec], is_batching: bool) -> None:
    name, data_type = io["name"], io["data_type"]
    spec = specs.get(name)
    if spec is None:
        raise LoadError(f"unexpected {role} '{name}', the model's {role}s are: {', '.join(sorted(specs))}")
    if ONNX_TYPES.get(data_type) != spec.onnx_type:
        provided = TRITON_TYPES.get(spec.onnx_type, spec.onnx_type)
        raise LoadError(f"configuration expects datatype {data_type} for {role} '{name}', model provides {provided}")
    reshape = io.get("reshape")
    dims = tuple(int(d) for d in (reshape.get("shape", ()) if reshape else io["dims"]))
    if not spec.shape:  # a scalar has no batch dimension, in or out
        if any(dim != 1 for dim in dims):
            raise LoadError(f"scalar {role} '{name}' takes dims of 1 only, configuration has {list(dims)}")
        return
    if is_batching and spec.shape[0] != -1:
        raise LoadError(
            f"max_batch_size > 0 needs a variable first dimension, but the model's {role} '{name}' has shape "
            f"{list(spec.shape)}"
        )
    wanted = (-1, *dims) if is_batching else dims
    if not _is_shape_supported(spec.shape, wanted, exact=role == "output"):
        batch = " (batch dimension included)" if is_batching else ""
        raise LoadError(
            f"the model's {role} '{name}' has shape {list(spec.shape)}, configuration specifies {list(wanted)}{batch}"
        )


def _is_shape_supported(model: tuple[int, ...], config: tuple[int, ...], *, exact: bool) -> bool:
    # An open input dimension may be narrowed by the config, an output's may not; a fixed one may never differ.
    return len(model) == len(config) and all(
        m == c or (m == -1 and not exact) for m, c in zip(model, config, strict=True)
    )


def find_model_file(version_directory: Path, default_model_filename: str) -> Path:
    """Return a version's ONNX file, or `model.onnx` in a directory of that name; raises LoadError for no such file."""
    path = version_directory / (default_model_filename or "model.onnx")
    # As bytes: Python in a stub takes names of files for ASCII, whatever the environment says.
    if os.path.isdir(str(path).encode()):
        path = path / "model.onnx"
    if not os.path.isfile(str(path).encode()):
        raise LoadError(f"unable to find '{path}'")
    return path


def _parameter(config: Mapping[str, Any], name: str) -> str | None:
    entry = config.get("parameters", {}).get(name)
    return None if entry is None else str(entry.get("string_value", ""))


def parse_int_parameter(config: Mapping[str, Any], name: str) -> int:
    """Return an integer parameter, or 0, ONNX Runtime's default for all of them; raises LoadError for no integer."""
    text = _parameter(config, name)
    try:
        value = 0 if text is None else int(text)
    except ValueError:
        raise LoadError(f"parameter {name}: '{text}' is not an integer") from None
    if not -(2**31) <= value < 2**31:
        raise LoadError(f"parameter {name}: '{text}' does not fit 32 bits")
    return value


def parse_bool_parameter(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a boolean parameter, written true, false, 1 or 0; raises LoadError for anything else."""
    text = _parameter(config, name)
    if text is None:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise LoadError(f"parameter {name}: '{text}' is not a boolean; use true or false")
    return text.lower() in ("true", "1")


def parse_slowdown(text: str | None) -> float:
    """Return the emulated slow-down factor, 1 when the variable is not set; raises LoadError for no number >= 1."""
    try:
        factor = 1.0 if text is None else float(text)
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor < float("inf"):
        raise LoadError(f"{SLOWDOWN_VARIABLE}='{text}' is not a number >= 1")
    return factor


def build_session_options(config: Mapping[str, Any], cpu_count: int) -> ort.SessionOptions:
    """Translate a config's optimisation level and `parameters`, named as the C++ backend names them.

    Without `intra_op_thread_count` the session gets one thread per CPU that this process may use: ONNX
    Runtime's own default would count the machine's cores and pin threads to them, out of the CPU set of an
    emulated machine. Raises LoadError when a parameter is malformed or out of range.
    """
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(level, GRAPH_LEVELS[0])
    mode = parse_int_parameter(config, "execution_mode")
    if mode not in (0, 1):
        raise LoadError(f"parameter execution_mode: expected 0 (sequential) or 1 (parallel), got {mode}")
    options.execution_mode = (ort.ExecutionMode.ORT_SEQUENTIAL, ort.ExecutionMode.ORT_PARALLEL)[mode]
    intra = parse_int_parameter(config, "intra_op_thread_count")
    options.intra_op_num_threads = intra if intra > 0 else cpu_count
    inter = parse_int_parameter(config, "inter_op_thread_count")
    if inter > 0:
        options.inter_op_num_threads = inter
    options.enable_cpu_mem_arena = parse_bool_parameter(config, "enable_mem_arena", True)
    options.enable_mem_pattern = parse_bool_parameter(config, "enable_mem_pattern", True)
    return options


def choose_providers(kind: str, device_id: str, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's providers for a `CPU` or `GPU` instance; raises LoadError when it has no CUDA provider."""
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if kind != "GPU":
        return [cpu]
    if "CUDAExecutionProvider" not in available:
        raise LoadError(
            f"instance_group KIND_GPU on gpu {device_id}: this onnxruntime has no CUDAExecutionProvider "
            f"(it has {', '.join(available)}); use KIND_CPU, or install onnxruntime-gpu"
        )
    return [("CUDAExecutionProvider", {"device_id": device_id}), cpu]


def open_session(
    config: Mapping[str, Any], version_directory: Path, *, kind: str, device_id: str
) -> ort.InferenceSession:
    """Open a version's ONNX file for one instance and check it against its config; raises LoadError."""
    path = find_model_file(version_directory, config.get("default_model_filename", ""))
    options = build_session_options(config, len(os.sched_getaffinity(0)))
    providers = choose_providers(kind, device_id, ort.get_available_providers())
    try:
        session = ort.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        raise LoadError(f"onnx runtime can't load '{path}': {' '.join(str(exc).split())}") from exc
    validate_config(
        config,
        read_specs(session.get_inputs()),
        read_specs(session.get_outputs()),
        read_specs(session.get_overridable_initializers()),
    )
    return session
