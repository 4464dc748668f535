"""fleet.yaml read again for a controller that runs.

Limits and timings take effect with the next step and nothing that was learned is lost. What the connections were
opened with does not: an address that moved under a running controller would leave two of them on one Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import ControllerSettings, FleetSettings, ServerSettings, load_fleet
from orchestrator.errors import ConfigError
from orchestrator.planner import Limits

Resolve = Callable[[ServerSettings, FleetSettings], Limits]

_FIXED_CONTROLLER_KEYS = ("controller.family",)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Settings that were accepted when the file was read again.

    Attributes:
        limits: The limits to keep to from the next step on.
        settings: The settings, for the timings of the loop.
        changes: The changes in words, one a key; empty when nothing that concerns the server changed.
    """

    limits: Limits
    settings: ControllerSettings
    changes: tuple[str, ...]


class SettingsFile:
    """The fleet file of a running controller.

    Args:
        path: The path of fleet.yaml.
        server: The server of the fleet that the controller looks after.
        fleet: The fleet that the controller was started with.
        resolve: A function that settles the limits; raises ConfigError for settings that can't be kept to.
    """

    def __init__(self, path: Path, server: ServerSettings, fleet: FleetSettings, *, resolve: Resolve) -> None:
        self._path = path
        self._server = server
        self._fleet = fleet
        self._resolve = resolve

    def reload(self) -> Reloaded:
        """Return what the file says now; when it is refused the old settings stay.

        Raises:
            ConfigError: when the file can't be used, or asks for what only a restart can give.
        """
        fleet = load_fleet(self._path)
        server = fleet.server(self._server.name)
        changed = tuple(
            (key, old, new) for key, old, new in _differences(_keys(self._server, self._fleet), _keys(server, fleet))
        )
        for key, old, new in changed:
            # Before anything is resolved: a moved address is refused whatever else the file says.
            if _needs_restart(key, self._server.name):
                raise ConfigError(f"{key} changed from {old} to {new}; that needs a restart of the controller")
        limits = self._resolve(server, fleet)
        self._server, self._fleet = server, fleet
        return Reloaded(limits, fleet.controller, tuple(f"{key} {old} → {new}" for key, old, new in changed))


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


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in old:
        if old[key] != new[key]:
            yield key, old[key], new[key]
