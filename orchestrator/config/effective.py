"""Settings as they are in force, key by key, with where each comes from; nothing that could open anything is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from orchestrator.config.fleet import FleetSettings
from orchestrator.validation import Location, hide_credentials, key_path


class EffectiveSetting(NamedTuple):
    """One key of a fleet.

    Attributes:
        key: the path, such as ``servers[0].grpc``.
        value: as JSON has it; of a URL without user and password.
        origin: the line of the file, the variable of the environment, or ``default``.
    """

    key: str
    value: Any
    origin: str


def effective_settings(fleet: FleetSettings, origins: Mapping[Location, str]) -> Iterator[EffectiveSetting]:
    """Yield all keys in the order of the sections' fields; ``origins`` is what ``read_fleet`` says."""
    for location, value in _leaves(fleet.model_dump(mode="json"), ()):
        shown = hide_credentials(value) if isinstance(value, str) else value
        yield EffectiveSetting(key_path(location), shown, origins.get(location, "default"))


def changed_settings(old: FleetSettings, new: FleetSettings) -> list[str]:
    """Return what differs between two fleets, key by key, in words; servers are told apart by their names."""
    before, after = _by_key(old), _by_key(new)
    return [
        f"{key} {_say(before, key)} → {_say(after, key)}"
        for key in {**before, **after}
        if before.get(key, ...) != after.get(key, ...)
    ]


def _by_key(fleet: FleetSettings) -> dict[str, Any]:
    servers = {f"servers[{server.name}]": server.model_dump(mode="json") for server in fleet.servers}
    return by_key({**servers, **fleet.model_dump(mode="json", exclude={"servers"})})


def by_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings, as JSON has them, by their key paths; URLs without user and password."""
    return {
        key_path(location): hide_credentials(value) if isinstance(value, str) else value
        for location, value in _leaves(values, ())
    }


def _say(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "(none)"


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*location, key))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*location, index))
    else:
        yield location, value
