"""fleet.yaml read again for a controller that runs.

Limits and timings take effect with the next step and nothing that was learned is lost. What the connections were
opened with does not: an address that moved under a running controller would leave two of them on one Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import FleetSettings, ServerSettings, load_fleet
from orchestrator.errors import ConfigError
from orchestrator.planner import Limits

Resolve = Callable[[ServerSettings, FleetSettings], Limits]

_FIXED_CONTROLLER_KEYS = ("controller.family",)


class SettingsFile:
    """The fleet file of a controller that was started with ``fleet`` for one server of it.

    The function ``resolve`` settles the limits, and raises ConfigError for settings that can't be kept to.
    """

    def __init__(self, path: Path, server: ServerSettings, fleet: FleetSettings, *, resolve: Resolve) -> None:
        self._path = path
        self._server = server
        self._fleet = fleet
        self._resolve = resolve

    def reload(self) -> tuple[Limits, tuple[str, ...]]:
        """Return the limits by what the file says now, and its changes in words; when refused the old settings stay.

        Raises:
            ConfigError: when the file can't be used, or asks for what only a restart can give.
        """
        fleet = load_fleet(self._path)
        server = fleet.server(self._server.name)
        before, after = _keys(self._server, self._fleet), _keys(server, fleet)
        changed = [key for key in before if before[key] != after[key]]
        for key in changed:
            # Before anything is resolved: a moved address is refused whatever else the file says.
            if _needs_restart(key, self._server.name):
                raise ConfigError(
                    f"{key} changed from {before[key]} to {after[key]}; that needs a restart of the controller"
                )
        limits = self._resolve(server, fleet)
        self._server, self._fleet = server, fleet
        return limits, tuple(f"{key} {before[key]} → {after[key]}" for key in changed)


def _needs_restart(key: str, server: str) -> bool:
    limits = f"servers[{server}].limits."
    if key.startswith(limits):
        return key == f"{limits}gpu_index"
    return key.startswith("servers[") or key in _FIXED_CONTROLLER_KEYS


def _keys(server: ServerSettings, fleet: FleetSettings) -> dict[str, Any]:
    """Return every setting of a server's controller by its key path."""
    return {
        **dict(_flatten(f"servers[{server.name}]", server.model_dump(mode="json"))),
        **dict(_flatten("controller", fleet.controller.model_dump(mode="json"))),
        "router.deadline_ms": fleet.router.deadline_ms,
    }


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value
