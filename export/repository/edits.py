"""What was changed by hand in a configuration that was written here.

The configuration's header repeats the tuning that it was written with and a fingerprint of the values that describe
the weights. The file is parsed into typed values, the configuration is generated again from these values and the
header's tuning, and the two are compared field by field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from export.repository.model_config import Tuning, read_header, read_tuning
from export.repository.model_files import CONFIG_FILE

_TUNING_FIELDS = (
    "max_batch_size",
    "instance_group",
    "dynamic_batching",
    "model_warmup",
    "optimization",
    "parameters.intra_op_thread_count",
    "parameters.cudnn_conv_algo_search",
    "parameters.arena_extend_strategy",
    "parameters.gpu_mem_limit",
)
"""An operator may change these; all other fields say what the model is."""
_HARMFUL_FIELDS = ("dynamic_batching.default_queue_policy", "dynamic_batching.priority")
"""Tuning all the same, but each of them switches Triton's prefetching off and degrades throughput."""
_FORMAT_FIELD = "input[0].format"


def find_edits(
    config: model_config_pb2.ModelConfig,
    text: str,
    *,
    fingerprint: str,
    build: Callable[[Tuning], model_config_pb2.ModelConfig],
    least_batch: int,
    made: str,
) -> tuple[list[str], list[str]]:
    """Return errors and notes of what differs from the configuration that the file's own values would give.

    Args:
        config: The message in the file.
        text: The file.
        fingerprint: That of the identity in the message.
        build: Makes the configuration of that identity anew.
        least_batch: The smallest ``max_batch_size`` that such a model may have.
        made: What was done to make it, ``exported`` or ``imported``; the remedy is to do it again.

    Raises:
        RepositoryError: when Triton would refuse the tuning or take something else for it.
    """
    errors: list[str] = []
    notes: list[str] = []
    remedy = f"{made.removesuffix('ed')} it anew"
    header = read_header(text)
    if header is None:
        errors.append(f"{CONFIG_FILE} lost its header, so what was changed by hand can't be told; {remedy}")
        tuning = read_tuning(config, least_batch=least_batch)
    else:
        tuning, written = header
        read_tuning(config, least_batch=least_batch)
        if written != fingerprint:
            errors.append(
                f"{CONFIG_FILE} was edited by hand: a slim.* parameter or the input is not what was {made}; {remedy}"
            )
    wanted, found = _flatten(build(tuning)), _flatten(config)
    differing = [field for field in sorted(wanted.keys() | found.keys()) if wanted.get(field) != found.get(field)]
    for field in differing:
        if any(other.startswith(f"{field}.") for other in differing):
            continue  # its parts say more
        message = (
            f"{CONFIG_FILE} was edited by hand: {field} is {_show(found.get(field))}, "
            f"{made} was {_show(wanted.get(field))}"
        )
        if field == _FORMAT_FIELD and field not in found:
            notes.append(f"{CONFIG_FILE} lacks {field}, as exports once did; clients for images refuse it: {remedy}")
        elif field.startswith(_HARMFUL_FIELDS):
            notes.append(f"{message}; this switches Triton's prefetching off, leave deadlines to the router")
        elif field.startswith(_TUNING_FIELDS):
            notes.append(message)
        else:
            errors.append(f"{message}; {remedy}")
    return errors, notes


def _flatten(message: model_config_pb2.ModelConfig) -> dict[str, Any]:
    """Return the set fields by path, ``instance_group[0].count``; a message that is present is ``{}``."""
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        match value:
            case dict():
                flat[path] = {}
                for key, item in value.items():
                    walk(f"{path}.{key}" if path else key, item)
            case list():
                for index, item in enumerate(value):
                    walk(f"{path}[{index}]", item)
            case _:
                flat[path.removesuffix(".string_value")] = value

    walk("", json_format.MessageToDict(message, preserving_proto_field_name=True))
    return flat


def _show(value: object) -> str:
    return "absent" if value is None else repr(value)
