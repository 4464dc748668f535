"""Asks controllers' endpoints, for the command line: blocking calls, bounded in time and size."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from orchestrator.config import ServerSettings
from orchestrator.errors import ConfigError, PermanentError, ServerUnavailableError, SlimError

ANSWER_LIMIT_BYTES = 4 << 20

# Without the proxies of the environment: controllers are inside, and a proxy would be asked for its own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch_status(server: ServerSettings, *, timeout_s: float) -> dict[str, Any]:
    """Return the status page of a server's controller as its JSON.

    Raises:
        ConfigError: when the server has no controller address.
        SlimError: when the controller does not answer, or not for this server.
    """
    values = _ask(server, "/status", None, timeout_s=timeout_s)
    if values.get("server") != server.name:
        raise PermanentError(
            f"{_address(server)} answers for server {values.get('server')!r}; correct 'controller' in fleet.yaml"
        )
    return values


def has_controller(server: ServerSettings, *, timeout_s: float = 2.0) -> bool:
    """Return whether a server has a controller that answers."""
    if server.controller is None:
        return False
    try:
        fetch_status(server, timeout_s=timeout_s)
    except SlimError:
        return False
    return True


def send_demand(
    server: ServerSettings, *, width: int, hold_s: float, timeout_s: float, family: str | None = None
) -> str:
    """Ask a server's controller to keep a width loaded; return the name of its model.

    The family may be left out where only one has the width.

    Raises:
        ConfigError: when the server has no controller address.
        SlimError: when the controller does not answer or refuses.
    """
    body = {"width": width, "hold_s": hold_s} | ({} if family is None else {"family": family})
    values = _ask(server, "/demand", body, timeout_s=timeout_s)
    return str(values.get("model"))


def _address(server: ServerSettings) -> str:
    address = server.controller_address
    if address is None:
        raise ConfigError(f"server {server.name!r} has no 'controller' address in fleet.yaml; give it one")
    return address


def _ask(server: ServerSettings, path: str, body: dict[str, Any] | None, *, timeout_s: float) -> dict[str, Any]:
    address = _address(server)
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, {"Content-Type": "application/json"})
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            values = json.loads(answer.read(ANSWER_LIMIT_BYTES))
    except urllib.error.HTTPError as exc:
        raise PermanentError(f"the controller at {address} says: {_reason(exc)}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        why = f"no answer within {timeout_s:g} s" if isinstance(cause, TimeoutError) else str(cause)
        raise ServerUnavailableError(
            f"no controller answers at {address} ({why}); is 'slimsched controller --server {server.name}' running?"
        ) from exc
    if not isinstance(values, dict):
        raise PermanentError(f"what answers at {address} is no controller")
    return values


def _reason(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.loads(error.read(ANSWER_LIMIT_BYTES))["error"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return f"{error.code} {error.reason}"
