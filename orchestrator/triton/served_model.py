"""What a model's config says of it: is it a width of a slimmable family, and which?

The exporter writes ``slim.*`` parameters into every config.pbtxt, so a router needs no file and no registry beside
the servers' addresses. Models without them, or with something else than one input and one output, are not ours and
are passed over.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.snapshot import Family, ModelName, ServedModel, TensorSpec, Width
from orchestrator.triton.messages import ModelConfig, data_type_name


def parse_served_model(config: ModelConfig) -> ServedModel | None:
    """Return the width that a config describes, None when it is no model of a slimmable family."""
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    if "slim.family" not in parameters or len(config.input) != 1 or len(config.output) != 1:
        return None
    try:
        width = int(parameters["slim.width"])
        accuracy = float(parameters["slim.accuracy"])
        flops = int(parameters["slim.flops"]) if "slim.flops" in parameters else None
        labels = json.loads(parameters.get("slim.labels", "[]"))
        input_spec, output_spec = _tensor_spec(config.input[0]), _tensor_spec(config.output[0])
    except (KeyError, ValueError):
        return None
    if not 1 <= width <= 100 or not isinstance(labels, list) or config.max_batch_size < 1:
        return None  # a model without a batch dimension can't take batches
    return ServedModel(
        name=ModelName(config.name),
        family=Family(parameters["slim.family"]),
        width=Width(width),
        accuracy=accuracy,
        flops=flops,
        max_batch_size=config.max_batch_size,
        instances=sum(group.count for group in config.instance_group) or 1,
        sha256=parameters.get("slim.sha256"),
        input=input_spec,
        output=output_spec,
        labels=tuple(str(label) for label in labels),
    )


def _tensor_spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, data_type_name(tensor.data_type), tuple(tensor.dims))
