"""`docs/settings.md` and the schema of fleet.yaml that editors use, both from the settings' models.

The files are generated, so that no key can be missing there or have another default; a test fails when one differs
from what is returned here. To write them again:

    python -m tools.settings
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.config import FleetSettings
from orchestrator.config.environment import can_override
from orchestrator.config.schema import SHIPPED, entries_of, section_of, settings_schema
from orchestrator.config.tenants import TenantsSettings

PAGE: Final = Path(__file__).parents[1] / "docs" / "settings.md"
_Schema = dict[str, Any]

_INTRODUCTION = """\
# Settings

All processes of a fleet read one file, fleet.yaml. Only `servers` has to be in it. An unknown key, a key that is given
twice and a value that is not allowed are errors; all that are found are told at once, with the line.

```console
$ slimsched config check --fleet fleet.yaml
$ slimsched config show --fleet fleet.yaml
$ slimsched config schema --path
```

`check` prints what is wrong, a line each, and then ends with 1; it checks the policies' names too. `show` prints every
setting in force and where it comes from. Rules between the keys of the whole file are checked once each section by
itself is right.

## In an editor

Editors that use the YAML language server (VS Code, Neovim, Emacs and others) complete and explain keys when the file
begins with the place of its schema, relative to the file or absolute:

```yaml
# yaml-language-server: $schema=fleet.schema.json
```

`slimsched config schema > fleet.schema.json` writes that file; `slimsched config schema --path` prints where the
installed one lies. `slimsched config schema --tokens` prints that of the tokens file.

## From the environment

Addresses, URLs and paths may come from the environment, because they differ between hosts and pods: keys that have
`env` behind their type below. A variable is called `SLIM_` and the key path in capitals, with two underscores between
levels. An entry of a list goes by its name, in which everything but letters and digits is an underscore.

| variable | key |
|---|---|
| `SLIM_GATEWAY__GRPC` | `gateway.grpc` |
| `SLIM_GATEWAY__AUTH__TOKENS_FILE` | `gateway.auth.tokens_file` |
| `SLIM_SERVERS__GPU_0__GRPC` | `grpc` of the server `gpu-0` |
| `SLIM_SERVERS__GPU_0__PROTOCOL_KEY_FILE` | `protocol_key_file` of the same |

A variable counts in place of the file's value, and an empty one not at all. It can make a section that the file does
not have, but no server. One of this form that names no key is an error; one of a server that the file does not have is
passed over, because servers leave while a process keeps its environment. Secrets themselves are not taken from the
environment, where other processes could see them and where they can't be replaced: put them into files, and give the
path.

## Versions of the file

`apiVersion: slimsched/v1` at the top says how the file is meant to be read. `slimsched local up` and `slimsched up`
write it. Another version is refused, before anything else is looked at.

Migration: files from before this key need no change; a file without it is read as `slimsched/v1`. A release that reads
a file differently will have another version, and say here what to change.

## fleet.yaml

"""
_TABLE_HEAD: Final = "| key | type | unit | default | range | what it is |\n|---|---|---|---|---|---|\n"
_UNITS: Final = {
    "_s": "s",
    "_ms": "ms",
    "_mib": "MiB",
    "_kib": "KiB",
    "_w": "W",
    "_percent": "%",
    "_ratio": "share",
    "_share": "share",
    "_factor": "times",
    "_per_s": "1/s",
    "_widths": "%",
}
"""Units by the ends of names, the longest end first where several fit."""


def render_page() -> str:
    """Return the text of docs/settings.md."""
    parts = [_INTRODUCTION]
    for kind, heading in ((FleetSettings, ""), (TenantsSettings, "## Tokens file\n\n")):
        schema = settings_schema(kind)
        parts.append(heading)
        parts.extend(_sections(schema, schema, ""))
    return "".join(parts).rstrip() + "\n"


def render_schema() -> str:
    """Return the text of the schema that is shipped."""
    return json.dumps(settings_schema(FleetSettings), indent=2) + "\n"


def _sections(schema: _Schema, section: _Schema, path: str) -> Iterator[str]:
    """Yield the text of a section, and of those in it."""
    yield f"### `{path}`\n\n" if path else ""
    yield f"{_linked(section['description'])}\n\n{_TABLE_HEAD}"
    required = section.get("required", ())
    for key, node in section["properties"].items():
        yield _row(key, node, section_of(schema, node), is_required=key in required)
    yield "\n"
    for key, node in section["properties"].items():
        if (inner := section_of(schema, node)) is not None:
            entry = {"list": "[]", "names": ".NAME", None: ""}[entries_of(node)]
            yield from _sections(schema, inner, f"{path}.{key}{entry}".removeprefix("."))


def _row(key: str, node: _Schema, section: _Schema | None, *, is_required: bool) -> str:
    reason = node.get("description") or (section or {}).get("description", "")
    default = (
        "as below" if section and node.get("default") else _value(node["default"]) if "default" in node else "none"
    )
    cells = (f"`{key}`", _type(node), _unit(key, node), "required" if is_required else default, _range(node))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in (*cells, _linked(reason)))} |\n"


def _linked(text: str) -> str:
    """Return a text in which a page that a docstring names, by its path in the repository, is linked to."""
    return re.sub(r"\bdocs/([a-z0-9/-]+\.md)(#[a-z0-9-]+)?", r"[\1](\1\2)", text)


def _variants(node: _Schema) -> list[_Schema]:
    return [each for each in node.get("anyOf", [node]) if each.get("type") != "null"]


def _type(node: _Schema) -> str:
    optional = " or `null`" if len(node.get("anyOf", ())) > len(_variants(node)) else ""
    env = ", env" if can_override(node) else ""
    return " or ".join(map(_variant_type, _variants(node))) + optional + env


def _variant_type(variant: _Schema) -> str:
    if "items" in variant:
        return f"list, each {_type(variant['items'])}"
    if "additionalProperties" in variant:
        return f"names, each with {_type(variant['additionalProperties'])}"
    if "$ref" in variant:
        return "section"
    if allowed := variant.get("enum") or [variant[key] for key in ("const",) if key in variant]:
        return " or ".join(f"`{each}`" for each in allowed)
    formats = {"host-port": "`host:port`", "uri": "URL", "path": "path"}
    types = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return formats.get(variant.get("format", "")) or types[variant["type"]]


def _unit(key: str, node: _Schema) -> str:
    types = {entry.get("type") for each in _variants(node) for entry in (each, each.get("items", {}))}
    ends = sorted((end for end in _UNITS if key.endswith(end)), key=len)
    return _UNITS[ends[-1]] if types & {"integer", "number"} and ends else ""


def _value(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _range(node: _Schema) -> str:
    words = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "exclusiveMaximum": "below {}",
        "minItems": "at least {} entry",
        "minLength": "at least {} character",
        "maxLength": "at most {} characters",
    }
    ranges = (
        ", ".join(text.format(f"{variant[key]:.12g}") for key, text in words.items() if key in variant)
        for variant in _variants(node)
    )
    return " or ".join(filter(None, ranges))


if __name__ == "__main__":
    PAGE.write_text(render_page())
    SHIPPED.write_text(render_schema())
