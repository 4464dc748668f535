from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import parse_fleet, render_fleet
from orchestrator.errors import ConfigError

FLEET = """
servers:
- {name: a, grpc: 127.0.0.1:8001}
families:
- name: plates
  variants:
  - {width: 100, model: large, quality: 0.7}
  - {width: 30, model: small, quality: 0.61}
"""


def test_a_described_family_has_its_variants_ascending_and_is_written_as_it_was_read() -> None:
    fleet = parse_fleet(FLEET)
    (family,) = fleet.families
    assert [(v.width, v.model, v.quality) for v in family.variants] == [(30, "small", 0.61), (100, "large", 0.7)]
    assert parse_fleet(render_fleet(fleet)) == fleet


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("width: 30", "width: 100", r"variants\[1\].width: is there twice; must be unique, got 100"),
        ("model: small", "model: large", r"variants\[1\].model: is there twice; must be unique, got 'large'"),
        ("width: 30", "width: 0", "families"),
        ("quality: 0.61", "quality: .nan", "quality"),
        ("name: plates", "name: large", "'large' is a family and a model"),
        ("name: plates", "name: pla/tes", "name"),
        ("  variants:", "  widths: [1]\n  variants:", "widths"),
    ],
)
def test_what_a_family_cannot_be_is_refused_with_its_key(old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_fleet(FLEET.replace(old, new))


def test_a_family_and_a_model_are_described_once() -> None:
    for more in (
        FLEET[FLEET.index("- name: plates") :],
        "- {name: more, variants: [{width: 1, model: small, quality: 1}]}\n",
    ):
        with pytest.raises(ConfigError, match="is there twice; must be unique"):
            parse_fleet(FLEET + more)


@pytest.mark.parametrize(("quality", "useless"), [(0.61, []), (0.7, [100]), (0.9, [100])])
def test_a_variant_that_is_no_better_than_a_narrower_one_is_useless(quality: float, useless: list[Any]) -> None:
    (family,) = parse_fleet(FLEET.replace("0.61", str(quality))).families
    assert [variant.width for variant in family.useless] == useless


def test_a_family_says_what_a_usual_item_is_and_is_written_as_it_was_read() -> None:
    said = "  item: {ids: [7], mask: [7]}\n  fill: {ids: 25, mask: [1, 1, 1, 1, 0, 0, 0.5], noise: random}\n"
    fleet = parse_fleet(FLEET + said)
    (family,) = fleet.families
    assert family.item == {"ids": (7,), "mask": (7,)}
    assert family.fill == {"ids": 25, "mask": (1, 1, 1, 1, 0, 0, 0.5), "noise": "random"}
    assert parse_fleet(render_fleet(fleet)) == fleet


@pytest.mark.parametrize(
    "said", ["item: {x: [0]}", "item: {x: big}", "fill: {x: .nan}", "fill: {x: {y: 1}}", "fill: 1"]
)
def test_a_usual_item_that_makes_no_sense_is_refused_with_its_key(said: str) -> None:
    with pytest.raises(ConfigError, match=rf"families\[0\].{said[:4]}"):
        parse_fleet(f"{FLEET}  {said}\n")
