"""A request that a newcomer can paste into a shell, made from what a model says of itself; pure.

It asks with the item that warm-up and probes run, ``orchestrator.triton.trial_items``: ``slim.item`` and ``slim.fill``
of the model's config, and zeros in the shape of the inputs where these say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from orchestrator.snapshot import Fill

Shapes = Mapping[str, Sequence[int]]
"""Those of a usual item by input, without a batch dimension."""


def describe_request(url: str, model: Mapping[str, Any], shapes: Shapes, fills: Mapping[str, Fill]) -> list[str]:
    """Return lines that say how a model, by its metadata and its usual item, is asked over HTTP."""
    name, body = model["name"], request_body(model, shapes, fills)
    if body is None:
        return [f"{name} is served; it takes what JSON has no form for, so ask for it with a client's binary data"]
    return ["try it:", f"  {body} | curl -s {url}/v2/models/{name}/infer -d @-"]


def request_body(model: Mapping[str, Any], shapes: Shapes, fills: Mapping[str, Fill]) -> str | None:
    """Return a command of the shell that writes a body with one item; None where JSON has no form for its values.

    Every shell refuses an argument of 128 KiB, which a picture of 224x224 exceeds; so what is many goes through a pipe.
    """
    parts = []
    for index, tensor in enumerate(model["inputs"]):
        name, datatype = tensor["name"], tensor["datatype"]
        if datatype in ("FP16", "BF16"):
            return None
        item = shapes.get(name, ())
        batch = tensor["shape"][: -len(item)] if item else tensor["shape"]
        shape = [1 if side < 1 else side for side in (*batch, *item)]
        lead = "," if index else '{"inputs":['
        parts.append(_say(f'{lead}{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":['))
        parts += _say_values(datatype, prod(shape), fills.get(name, "" if datatype == "BYTES" else 0))
    outputs = model["outputs"]
    # Of what may be a class's scores the best; anything else as it is.
    is_classifier = len(outputs) == 1 and len(outputs[0]["shape"]) == 2 and outputs[0]["datatype"] == "FP32"
    best = (
        f',"outputs":[{{"name":"{outputs[0]["name"]}","parameters":{{"classification":1}}}}]' if is_classifier else ""
    )
    return "{ " + "; ".join([*parts, _say(f"]{best}}}")]) + "; }"


def _say_values(datatype: str, count: int, fill: Fill) -> list[str]:
    """Return commands that write so many values, and the end of their list."""
    if fill == "random" and datatype != "BYTES":
        script = f'BEGIN {{for (i = 1; i < {count}; i++) printf "%f,", rand(); printf "%f]}}\\n", rand()}}'
        return [f"LC_ALL=C awk {_quote(script)}"]
    values = [_literal(datatype, value) for value in (fill if isinstance(fill, tuple) else (fill,))]
    if len(set(values)) > 1:
        return [_say(",".join(values) + "]}")]
    repeated = [f"yes {_quote(values[0] + ',')} | head -n {count - 1}"] if count > 1 else []
    return [*repeated, _say(values[0] + "]}")]


def _literal(datatype: str, value: float | str) -> str:
    """Return a value as JSON; a negative one behind a space, so that no command takes it for an option."""
    if datatype == "BOOL":
        value = bool(value)
    elif "INT" in datatype and isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value)
    return f" {text}" if text.startswith("-") else text


def _say(text: str) -> str:
    """Return a command that writes a line; not every shell's ``echo`` leaves a backslash alone."""
    return ("printf '%s\\n' " if "\\" in text else "echo ") + _quote(text)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
