"""A request that a newcomer can paste, made from what the gateway says it serves."""

from __future__ import annotations

from math import prod
from typing import Any

import aiohttp

from orchestrator.config import GatewaySettings

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


async def describe_first_request(settings: GatewaySettings) -> list[str]:
    """Return lines with curl commands for a gateway that runs; none when it can't be asked without credentials."""
    if settings.http is None:
        return []
    url = f"http://{settings.http}"
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            async with session.post(f"{url}/v2/repository/index", raise_for_status=True) as answer:
                ready = [entry["name"] for entry in await answer.json(content_type=None) if entry["state"] == "READY"]
            if not ready:
                return []
            async with session.get(f"{url}/v2/models/{ready[0]}", raise_for_status=True) as answer:
                model = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError):
        return []
    return ["try it:", f"  curl -s {url}/v2/models/{ready[0]}/infer -d {_body(model)}"]


def _body(model: dict[str, Any]) -> str:
    """Return a body of zeros, which the shell (bash) spells out."""
    tensor = model["inputs"][0]
    shape = [1 if side < 1 else side for side in tensor["shape"]]
    more = prod(shape) - 1
    zeros = f"'$(printf '0,%.0s' $(seq {more}))'0" if more else "0"
    name, datatype, output = tensor["name"], tensor["datatype"], model["outputs"][0]["name"]
    return (
        f'\'{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":[{zeros}]}}],'
        f'"outputs":[{{"name":"{output}","parameters":{{"classification":1}}}}]}}\''
    )
