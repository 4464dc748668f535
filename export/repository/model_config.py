"""Triton's ModelConfig of an exported width: typed values <-> ``config.pbtxt``.

The text is printed from Triton's own protobuf message, so it can't hold a field or a type that Triton does not
know. What is left out is as deliberate as what is set (all of it was measured or read in Triton's sources):

- ``runtime``: Triton fills it in for Python-based backends; sent back, it forces a full reload, and NVIDIA's C++
  ``onnxruntime`` backend refuses it.
- ``default_queue_policy`` and priorities: any of them switches the batcher's prefetching off. Deadlines and bounds
  are the router's.
- ``preferred_batch_size``: Triton's documentation advises against it unless one size is much faster.
- On CPU ``intra_op_thread_count`` is always set, because each instance would otherwise take all cores. On GPU the
  cuDNN algorithm is found by heuristic instead of a search for every new batch size, and the memory arena grows by
  what is asked for; both parameters are read by the C++ backend from ``parameters``.
- The input's ``format`` changes nothing in Triton; clients for images, such as NVIDIA's, take no model without it.
- Warm-up of the smallest and the largest batch: the first run of a size is slow on GPU, and everywhere an instance's
  memory grows to what its largest batch needs. Run at load it is there at load, where whoever keeps a memory budget
  can see it. Twice, because the second run still allocates. Measured on CPU with the demo family: without warm-up an
  instance grows from 28 to 45 MiB under load, with one run from 38, with two it starts where it stays.

The ``slim.*`` parameters make a server describe itself. The header's comments repeat how the file was made
and a fingerprint of the values that describe the weights, so that an edit by hand can be recognised.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError
from export.limits import MAX_BATCH_SIZE, MAX_INSTANCES, MAX_QUEUE_DELAY_US, MAX_THREADS
from export.repository.model_files import LABELS_FILE
from export.width import Width, width_key

INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
WARM_UP_RUNS = 2
FAMILY_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,199}")
"""Of a length that leaves a file system's 255 bytes room for the width, and for what tools append."""
_FRACTIONS = (model_config_pb2.TYPE_FP16, model_config_pb2.TYPE_FP32, model_config_pb2.TYPE_FP64)
_KNOBS = {
    "device": "--device",
    "max_batch_size": "--max-batch-size",
    "instance_count": "--instances",
    "intra_op_threads": "--intra-op-threads",
    "max_queue_delay_us": "--max-queue-delay-us",
}
"""Flags of the export and the import, as the header repeats them, by field of ``Tuning``."""
_TUNING = re.compile(r"^# tuning: (.*)$", re.MULTILINE)
_FINGERPRINT = re.compile(r"^# identity: ([0-9a-f]{64})$", re.MULTILINE)


class Device(StrEnum):
    """What a model's instances run on."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What an operator or a controller may change without the model becoming another one.

    Attributes:
        max_batch_size: Largest batch Triton forms, in images; 0 for an imported model that is served without batching.
        instance_count: Parallel instances; on GPU on device 0.
        intra_op_threads: The threads of each instance; only on CPU.
        max_queue_delay_us: How long the batcher may wait for more images; 0 still batches what is queued.
    """

    device: Device = Device.CPU
    max_batch_size: int = 64
    instance_count: int = 1
    intra_op_threads: int = 1
    max_queue_delay_us: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What the weights are; changing any of it makes another model.

    Attributes:
        family: The name of the slimmable network; all its widths have the same.
        shape: Channels, height and width of an image.
        labels: Class names; the index is the class.
        accuracy: Top-1 in 0..1 on the test split, measured with ONNX Runtime, rounded to four places.
        flops: The work of one image; a multiply-add counts as two.
        sha256: The digest of ``model.onnx``, hexadecimal.
        preprocessing: What an image file goes through, as JSON; empty when nothing is said of it.
    """

    family: str
    width: Width
    shape: tuple[int, int, int]
    labels: tuple[str, ...]
    accuracy: float
    flops: int
    sha256: str
    preprocessing: str = ""

    @property
    def name(self) -> str:
        """The model's name in Triton, ``fashion_w025``."""
        return model_name(self.family, self.width)

    def fingerprint(self) -> str:
        """Return a hash over all values, hexadecimal."""
        values = [
            self.family,
            self.width,
            self.shape,
            self.labels,
            f"{self.accuracy:.4f}",
            self.flops,
            self.sha256,
            *filter(None, [self.preprocessing]),  # so that configs without it stay what they were
        ]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def model_name(family: str, width: Width) -> str:
    """Return the name of one width's model.

    Raises RepositoryError when the family's name is not one that Triton, file systems and metrics all take.
    """
    if not FAMILY_PATTERN.fullmatch(family):
        raise RepositoryError(
            f"family name {family!r:.80} is not a lower-case letter and up to 199 of a-z, 0-9, _ and -; "
            "give another --family"
        )
    return f"{family}_{width_key(width)}"


def to_protobuf(identity: Identity, tuning: Tuning) -> model_config_pb2.ModelConfig:
    """Return Triton's message for a model; raises RepositoryError when a tuning value is out of range."""
    config = new_config(identity.name, tuning)
    config.input.add(
        name=INPUT_NAME,
        data_type=model_config_pb2.TYPE_FP32,
        format=model_config_pb2.ModelInput.FORMAT_NCHW,
        dims=identity.shape,
    )
    config.output.add(
        name=OUTPUT_NAME,
        data_type=model_config_pb2.TYPE_FP32,
        dims=[len(identity.labels)],
        label_filename=LABELS_FILE,
    )
    add_warmup(config, {INPUT_NAME: identity.shape})
    for key, value in _parameters(identity).items():
        config.parameters[key].string_value = value
    return config


def new_config(name: str, tuning: Tuning, *, least_batch: int = 1) -> model_config_pb2.ModelConfig:
    """Return a message that says how a model runs and not yet what it is.

    ``least_batch`` is 0 for a model that may be served without batching. Raises RepositoryError when a tuning value is
    out of range.
    """
    _check_tuning(tuning, least_batch)
    config = model_config_pb2.ModelConfig(name=name, backend="onnxruntime", max_batch_size=tuning.max_batch_size)
    if tuning.max_batch_size:
        config.dynamic_batching.SetInParent()
        if tuning.max_queue_delay_us:
            config.dynamic_batching.max_queue_delay_microseconds = tuning.max_queue_delay_us
    group = config.instance_group.add(count=tuning.instance_count)
    if tuning.device is Device.CPU:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    else:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
        group.gpus.append(0)
    for key, value in _backend_parameters(tuning).items():
        config.parameters[key].string_value = value
    return config


def render_config(identity: Identity, tuning: Tuning) -> str:
    """Return the text of ``config.pbtxt``; equal values give equal text."""
    return render_text(to_protobuf(identity, tuning), tuning, identity.fingerprint(), command="export")


def render_text(config: model_config_pb2.ModelConfig, tuning: Tuning, fingerprint: str, *, command: str) -> str:
    """Return a header that repeats how the file was made, then the message, with maps sorted."""
    knobs = " ".join(f"{flag} {getattr(tuning, name)}" for name, flag in _KNOBS.items())
    header = [
        f"# Written by 'slimsched {command}'; 'slimsched verify' tells what was changed by hand since.",
        f"# tuning: {knobs}",
        f"# identity: {fingerprint}",
    ]
    body: str = text_format.MessageToString(config)
    return "\n".join(header) + "\n" + body


def parse_config(text: str) -> model_config_pb2.ModelConfig:
    """Return the message in a ``config.pbtxt``; raises RepositoryError when Triton could not read it either."""
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as exc:
        raise RepositoryError(f"not a Triton model configuration ({exc}); export it anew") from exc
    return config


def read_identity(config: model_config_pb2.ModelConfig) -> Identity:
    """Return what a configuration says the model is.

    Raises RepositoryError when it lacks a ``slim.*`` parameter or one makes no sense.
    """
    values = {key: value.string_value for key, value in config.parameters.items()}
    try:
        channels, height, width = config.input[0].dims
        labels = json.loads(values["slim.labels"])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("slim.labels is not a list of strings")
        return Identity(
            family=values["slim.family"],
            width=Width(int(values["slim.width"])),
            shape=(channels, height, width),
            labels=tuple(labels),
            accuracy=float(values["slim.accuracy"]),
            flops=int(values["slim.flops"]),
            sha256=values["slim.sha256"],
            preprocessing=values.get("slim.preprocessing", ""),
        )
    except KeyError as exc:
        raise RepositoryError(f"the parameter {exc.args[0]} is missing; export it anew") from exc
    except (ValueError, IndexError, RecursionError) as exc:
        raise RepositoryError(f"a slim.* parameter or the input makes no sense ({exc}); export it anew") from exc


def read_tuning(config: model_config_pb2.ModelConfig, *, least_batch: int = 1) -> Tuning:
    """Return the tuning a configuration asks for, as far as ``Tuning`` can say it.

    Raises RepositoryError when Triton would refuse it or take something else for it, or when it batches less than
    ``least_batch``.
    """
    if not config.instance_group:
        raise RepositoryError("no instance_group, of which Triton makes two instances; export it anew")
    for group in config.instance_group:
        if group.kind not in (
            model_config_pb2.ModelInstanceGroup.KIND_CPU,
            model_config_pb2.ModelInstanceGroup.KIND_GPU,
        ):
            raise RepositoryError("an instance_group is neither KIND_CPU nor KIND_GPU; say which")
        if group.count < 1:
            raise RepositoryError(
                f"an instance_group has count {group.count}, of which Triton makes two; give a number"
            )
    too_large = [size for size in config.dynamic_batching.preferred_batch_size if size > config.max_batch_size]
    if too_large:
        raise RepositoryError(
            f"preferred_batch_size {too_large[0]} exceeds max_batch_size {config.max_batch_size}, which Triton refuses"
        )
    group = config.instance_group[0]
    on_cpu = group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    threads = parameters.get("intra_op_thread_count", "") if on_cpu else "1"
    if not threads.isdecimal() or len(threads) > 20:  # of which Python may make no number
        raise RepositoryError(
            f"intra_op_thread_count is {threads[:40]!r}; give a number, else every instance takes all cores"
        )
    tuning = Tuning(
        device=Device.CPU if on_cpu else Device.GPU,
        max_batch_size=config.max_batch_size,
        instance_count=group.count,
        intra_op_threads=int(threads),
        max_queue_delay_us=config.dynamic_batching.max_queue_delay_microseconds,
    )
    _check_tuning(tuning, least_batch)
    return tuning


def read_header(text: str) -> tuple[Tuning, str] | None:
    """Return the tuning and the fingerprint in the header of an exported file; None when it was not kept."""
    knobs, fingerprint = _TUNING.search(text), _FINGERPRINT.search(text)
    if knobs is None or fingerprint is None:
        return None
    words = knobs.group(1).split()
    values = dict(zip(words[::2], words[1::2], strict=False))
    try:
        device, *counts = (values[flag] for flag in _KNOBS.values())
        tuning = Tuning(Device(device), *map(int, counts))
        _check_tuning(tuning, 0)
    except (KeyError, ValueError, RepositoryError):
        return None
    return tuning, fingerprint.group(1)


def _check_tuning(tuning: Tuning, least_batch: int) -> None:
    ranges = {
        "max_batch_size": (tuning.max_batch_size, least_batch, MAX_BATCH_SIZE),
        "instances": (tuning.instance_count, 1, MAX_INSTANCES),
        "intra_op_threads": (tuning.intra_op_threads, 1, MAX_THREADS),
        "max_queue_delay_us": (tuning.max_queue_delay_us, 0, MAX_QUEUE_DELAY_US),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise RepositoryError(f"{name} is {value}; give {least} to {most}")


def _parameters(identity: Identity) -> dict[str, str]:
    """Return what the model says of itself; Triton's backends read strings only."""
    values = {
        "slim.family": identity.family,
        "slim.width": str(identity.width),
        "slim.accuracy": f"{identity.accuracy:.4f}",
        "slim.flops": str(identity.flops),
        "slim.sha256": identity.sha256,
        "slim.labels": json.dumps(identity.labels, ensure_ascii=True),
    }
    if identity.preprocessing:
        values["slim.preprocessing"] = identity.preprocessing
    return values


def _backend_parameters(tuning: Tuning) -> dict[str, str]:
    if tuning.device is Device.CPU:
        return {"intra_op_thread_count": str(tuning.intra_op_threads)}
    # 1: heuristic search; 1: kSameAsRequested.
    return {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}


def add_warmup(
    config: model_config_pb2.ModelConfig, shapes: Mapping[str, tuple[int, ...]], files: Mapping[str, str] | None = None
) -> None:
    """Run the smallest and the largest batch before an instance serves: the one compiles, the other allocates.

    The shapes are an item's, for each declared input, without the batch dimension where the model batches. Numbers
    with a fraction are random; of integers, which may be indices, only 0 is sure to be in range. ``files`` has the name
    of a file with an item for inputs that have other values.
    """
    for size in sorted({1, config.max_batch_size or 1}):
        warmup = config.model_warmup.add(name=f"batch_{size}", batch_size=size, count=WARM_UP_RUNS)
        for declared in config.input:
            tensor = warmup.inputs[declared.name]
            tensor.data_type = declared.data_type
            tensor.dims.extend(shapes[declared.name])
            if files and declared.name in files:
                tensor.input_data_file = files[declared.name]
            elif declared.data_type in _FRACTIONS:
                tensor.random_data = True
            else:
                tensor.zero_data = True
