"""A request that a newcomer can paste into a shell, made from what a model says of itself; pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any


def describe_request(url: str, model: Mapping[str, Any]) -> list[str]:
    """Return lines that say how a model, by its metadata, is asked over HTTP."""
    name, body = model["name"], request_body(model)
    if body is None:
        return [f"{name} is served; it takes what JSON has no form for, so ask for it with a client's binary data"]
    return ["try it:", f"  {body} | curl -s {url}/v2/models/{name}/infer -d @-"]


def request_body(model: Mapping[str, Any]) -> str | None:
    """Return a command of the shell that writes a body of zeros, however many; None where JSON has no form for them.

    Every shell refuses an argument of 128 KiB, which a picture of 224x224 exceeds; so the zeros go through a pipe.
    """
    parts = []
    for index, tensor in enumerate(model["inputs"]):
        name, datatype = tensor["name"], tensor["datatype"]
        value = {"BYTES": '""', "BOOL": "false", "FP16": None, "BF16": None}.get(datatype, "0")
        if value is None:
            return None
        shape = [1 if side < 1 else side for side in tensor["shape"]]
        lead = "," if index else '{"inputs":['
        parts.append(f'echo \'{lead}{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":[\'')
        if prod(shape) > 1:
            parts.append(f"yes '{value},' | head -n {prod(shape) - 1}")
        parts.append(f"echo '{value}]}}'")
    outputs = model["outputs"]
    # Of what may be a class's scores the best; anything else as it is.
    is_classifier = len(outputs) == 1 and len(outputs[0]["shape"]) == 2 and outputs[0]["datatype"] == "FP32"
    best = (
        f',"outputs":[{{"name":"{outputs[0]["name"]}","parameters":{{"classification":1}}}}]' if is_classifier else ""
    )
    return "{ " + "; ".join([*parts, f"echo ']{best}}}'"]) + "; }"
