from __future__ import annotations

import pytest

from orchestrator.config import parse_fleet, parse_tenants
from orchestrator.config.yaml_document import read_yaml
from orchestrator.errors import SettingsError


def test_every_key_and_entry_has_its_line() -> None:
    document = read_yaml("a: 1\nb:\n  - c: 2\n  - 3\n")
    assert document.values == {"a": 1, "b": [{"c": 2}, 3]}
    assert document.lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 0, "c"): 3, ("b", 1): 4}
    assert document.doubled == ()


def test_merged_keys_are_there_and_not_twice() -> None:
    document = read_yaml("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n")
    assert document.values["y"] == {"a": 1, "b": 3}
    assert document.lines["y", "b"] == 4
    assert document.doubled == ()


def test_aliases_that_stand_for_billions_of_values_or_for_themselves_are_looked_at_once() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    assert len(read_yaml(bomb).lines) < 200
    assert read_yaml("a: &a [*a]\n").lines == {("a",): 1, ("a", 0): 1}


def test_an_empty_text_has_no_values() -> None:
    assert read_yaml("") == (None, {}, ())


def test_a_key_that_is_given_twice_is_refused_with_its_line_beside_all_else() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_fleet("servers: [{name: a, grpc: 'h:1'}]\nrouter: {seed: 1}\nrouter: {deadline_ms: 0}\n")
    assert caught.value.problems == (
        "line 3: router is given twice",
        "line 3: router.deadline_ms: must be above 0, got 0",
    )
    with pytest.raises(SettingsError, match="line 1: router is given twice"):
        parse_fleet("{router: {}, router: {}, servers: [{name: a, grpc: 'h:1'}]}")


def test_of_a_file_of_secrets_no_key_is_quoted() -> None:
    with pytest.raises(SettingsError, match="line 1: a key is given twice") as caught:
        parse_tenants("{tenants: [{name: a, tokens: []}], hush: 1, hush: 2, 123456: 3}")
    assert "hush" not in str(caught.value)
    assert "123456" not in str(caught.value)
