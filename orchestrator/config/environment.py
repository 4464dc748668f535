"""What the environment gives of settings: addresses, URLs and paths, which are another on each host or in each pod.

A variable is called ``SLIM_`` and the key path in capitals, with two underscores between levels, and a server by its
name: ``SLIM_GATEWAY__GRPC``, ``SLIM_SERVERS__GPU_0__GRPC``. Only where something lies can be given so. Numbers and
policies are the fleet's and belong in its file, where all processes read the same. A secret stays in a file of its own,
which platforms mount and which changes while a process runs; the environment says where that lies.

A variable of this form that names no key is an error: it was meant to change something. One of a server that the file
does not have is passed over, because servers leave the file while a process keeps its variables. One level is not of
this form, because Kubernetes gives such variables for services, like ``SLIM_SCHEDULER_SERVICE_HOST``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from orchestrator.validation import Location, key_path

_FORM: Final = re.compile(r"SLIM_[A-Z0-9]+(_[A-Z0-9]+)*__\w+")
_PLACES: Final = ("host-port", "path", "uri")
"""Formats, in the JSON schema, of what the environment may give."""


def override(
    kind: type[BaseModel], values: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], Mapping[Location, str], tuple[str, ...]]:
    """Return the values of a file with those from the environment, the variable that gave each of them, and refusals.

    An empty variable counts as none. One of the form that stands for no such key, or for more than one, is refused.
    """
    given = {name: text for name, text in environment.items() if text and _FORM.fullmatch(name)}
    if not given:
        return values, {}, ()
    from orchestrator.config.schema import settings_schema  # takes a while, which hardly any process needs

    schema = settings_schema(kind)
    known: defaultdict[str, list[Location]] = defaultdict(list)
    for variable, location in _variables(schema, schema, values, "SLIM_", ()):
        known[variable].append(location)
    origins: dict[Location, str] = {}
    refusals = []
    of_absent = [re.compile(variable.replace("*", r"\w+")) for variable in known if "*" in variable]
    for variable, text in sorted(given.items()):
        if variable not in known and any(each.fullmatch(variable) for each in of_absent):
            continue
        if len(known[variable]) != 1:
            refusals.append(_refusal(variable, known))
            continue
        (location,) = known[variable]
        values = _with(values, location, text)
        origins[location] = variable
    return values, origins, tuple(refusals)


def without_overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without such variables, for a process whose file has what they say already."""
    return {name: text for name, text in environment.items() if not _FORM.fullmatch(name)}


def can_override(node: dict[str, Any]) -> bool:
    """Return whether the environment may give a key that has this JSON schema."""
    return any(each.get("format") in _PLACES for each in (node, *node.get("anyOf", ())))


def _variables(
    schema: dict[str, Any], section: dict[str, Any], values: object, prefix: str, location: Location
) -> Iterator[tuple[str, Location]]:
    """Yield the variable for each key that may be given, and the key; ``*`` stands for entries that are not there."""
    from orchestrator.config.schema import entries_of, section_of

    for key, node in section["properties"].items():
        variable, at = prefix + _capitals(key), (*location, key)
        value = values.get(key) if isinstance(values, dict) else None
        inner = section_of(schema, node)
        if inner is None:
            if can_override(node):
                yield variable, at
        elif entries_of(node) is None:
            yield from _variables(schema, inner, value, f"{variable}__", at)
        else:
            yield from _variables(schema, inner, {}, f"{variable}__*__", (*at, "*"))
            for name, index, entry in _named_entries(value):
                yield from _variables(schema, inner, entry, f"{variable}__{_capitals(name)}__", (*at, index))


def _named_entries(value: object) -> Iterator[tuple[str, int | str, object]]:
    """Yield the entries of a list that have a name, or those of a mapping: name, place, entry."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
                yield name, index, entry
    elif isinstance(value, dict):
        yield from ((name, name, entry) for name, entry in value.items() if isinstance(name, str))


def _capitals(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _refusal(variable: str, known: Mapping[str, list[Location]]) -> str:
    if len(known[variable]) > 1:
        keys = " and ".join(map(key_path, known[variable]))
        return f"the environment's {variable} stands for {keys}; give their servers names that differ by more"
    start = variable.partition("__")[0]
    near = [name for name, keys in known.items() if keys and "*" not in name and name.startswith(f"{start}__")]
    names = near or sorted({name.partition("__")[0] + "__…" for name, keys in known.items() if keys})
    return f"the environment's {variable} names no address, URL or path of the settings; known: {', '.join(names)}"


def _with(values: Any, location: Location, text: str) -> Any:
    """Return the values with one replaced, and change nothing in place: YAML's aliases share what they name."""
    if not location:
        return text
    at, *rest = location
    if isinstance(values, list):
        return [_with(each, tuple(rest), text) if index == at else each for index, each in enumerate(values)]
    given = values if isinstance(values, dict) else {}
    return {**given, at: _with(given.get(at), tuple(rest), text)}
