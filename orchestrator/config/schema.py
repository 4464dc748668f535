"""JSON schemas of settings files: what editors complete and check by, and what the settings reference is made of.

They are pydantic's, with the reason of each key, which is the text under its field. pydantic could read those itself
(`use_attribute_docstrings`), but would do it on every import, which costs each process some 40 ms; so it is done here,
when somebody asks. The schema of fleet.yaml is also shipped as a file, for editors; a test holds it against this.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

SHIPPED: Final = Path(__file__).parent / "fleet.schema.json"
"""The schema of fleet.yaml as a file of the package."""
_YAML_WORDS: Final = {"None": "null", "True": "true", "False": "false"}


def entries_of(node: dict[str, Any]) -> Literal["list", "names"] | None:
    """Return whether a key holds a list of entries, or entries by their names; None when it holds one thing."""
    variants = (node, *node.get("anyOf", ()))
    if any("items" in each for each in variants):
        return "list"
    return "names" if any(isinstance(each.get("additionalProperties"), dict) for each in variants) else None


@cache
def settings_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a settings file, ``FleetSettings`` or another; not to be changed."""
    schema = kind.model_json_schema(schema_generator=_WithReasons)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def section_of(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section that the schema of a key leads to, be it optional or each entry's; None when it is a value.

    A section has ``properties``, which are the schemas of its keys, and a ``description``.
    """
    if (reference := node.get("$ref")) is not None:
        section: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
        return section
    entries = (node.get(key) for key in ("items", "additionalProperties"))
    inner = [*node.get("anyOf", ()), *(each for each in entries if isinstance(each, dict))]
    return next((found for each in inner if (found := section_of(schema, each))), None)


class _WithReasons(GenerateJsonSchema):
    """pydantic's schemas with the reasons of keys, and without titles that only repeat them."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        section = super().model_schema(schema)
        section.pop("title", None)
        section["description"] = _words(section["description"])
        reasons = _read_reasons(schema["cls"])
        for name, info in schema["cls"].model_fields.items():
            key = section["properties"][info.alias or name]
            key.pop("title", None)
            if name in reasons:
                key["description"] = reasons[name]
        return section


def _read_reasons(kind: type[BaseModel]) -> dict[str, str]:
    """Return the text under each field of a class that has one, those that it inherits included."""
    reasons: dict[str, str] = {}
    for base in kind.__bases__:
        if issubclass(base, BaseModel) and base is not BaseModel:
            reasons |= _read_reasons(base)
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in itertools.pairwise(definition.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                reasons[name] = _words(text)
    return reasons


def _words(text: str) -> str:
    """Return a docstring as those read it who write YAML: with its words, and one kind of quotes, in one line."""
    in_yaml = re.sub(r"\b(None|True|False)\b", lambda match: _YAML_WORDS[match[0]], text)
    return " ".join(in_yaml.replace("``", "`").split())
