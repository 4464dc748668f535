from __future__ import annotations

from orchestrator.config import FleetSettings
from orchestrator.config.schema import SHIPPED, section_of, settings_schema
from tools.settings import PAGE, render_page, render_schema


def test_the_reference_and_the_shipped_schema_are_those_of_the_models() -> None:
    remedy = "run 'python -m tools.settings'"
    assert PAGE.read_text() == render_page(), remedy
    assert SHIPPED.read_text() == render_schema(), remedy


def test_every_key_says_what_it_is() -> None:
    schema = settings_schema(FleetSettings)
    for section in (schema, *schema["$defs"].values()):
        for key, node in section["properties"].items():
            inner = section_of(schema, node)
            assert node.get("description") or (inner and inner["description"]), key


def test_a_row_has_type_unit_default_range_and_reason() -> None:
    page = render_page()
    assert "| `deadline_ms` | number | ms | `100` | above 0 | Deadline of requests that bring none: " in page
    assert "| `grpc` | `host:port`, env |  | required |  | Address of its gRPC endpoint" in page
    assert "| `wanted_widths` | list, each whole number or `null` | % | `null` |  | Loaded whenever" in page
    assert "None" not in page
