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


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*location, key))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*location, index))
    else:
        yield location, value
