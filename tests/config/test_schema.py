from __future__ import annotations

from pydantic import Field

from orchestrator.config.schema import entries_of, section_of, settings_schema
from orchestrator.config.section import Address, Section


class Part(Section):
    """One part."""

    address: Address | None = None
    """Where it is; None: ``nowhere``."""


class Larger(Part):
    """A part with more."""

    parts: dict[str, Part] = Field(default_factory=dict)
    others: tuple[Part, ...] = ()
    is_last: bool = True
    """True or False."""


def test_a_key_has_the_text_under_its_field_in_yaml_s_words_be_it_inherited() -> None:
    keys = settings_schema(Larger)["properties"]
    assert keys["address"]["description"] == "Where it is; null: `nowhere`."
    assert keys["is_last"]["description"] == "true or false."
    assert "description" not in keys["parts"]


def test_sections_are_found_behind_lists_names_and_null() -> None:
    schema = settings_schema(Larger)
    keys = schema["properties"]
    for key, entries in (("parts", "names"), ("others", "list")):
        section = section_of(schema, keys[key])
        assert section is not None
        assert section["description"] == "One part."
        assert entries_of(keys[key]) == entries
    assert section_of(schema, keys["address"]) is None
    assert entries_of(keys["address"]) is None


def test_an_address_has_its_format_and_pattern_for_editors() -> None:
    address = settings_schema(Part)["properties"]["address"]["anyOf"][0]
    assert address["format"] == "host-port"
    assert address["pattern"].startswith("^")
