"""What differs between two fleet files, in words."""

from __future__ import annotations

from typing import Any

from orchestrator.config import FleetSettings
from orchestrator.config.effective import changed_settings


def fleet(*servers: dict[str, Any], **sections: Any) -> FleetSettings:
    return FleetSettings.model_validate({"servers": servers, **sections})


A, B = {"name": "a", "grpc": "h:1"}, {"name": "b", "grpc": "h:2"}


def test_a_change_is_told_by_its_key_with_both_values() -> None:
    new = fleet(A, B, router={"policy": "jsq", "overload": {"shed_late": False}})
    assert changed_settings(fleet(A, B, router={"policy": "lert"}), new) == [
        "router.policy lert → jsq",
        "router.overload.shed_late True → False",
    ]


def test_servers_are_told_apart_by_name_wherever_they_stand() -> None:
    assert changed_settings(fleet(A, B), fleet(B, A)) == []
    [told] = changed_settings(fleet(A, B), fleet(A, {**B, "grpc": "h:3"}))
    assert told == "servers[b].grpc h:2 → h:3"
    came = changed_settings(fleet(A), fleet(B, A))
    assert "servers[b].grpc (none) → h:2" in came
    assert all(line.startswith("servers[b]") for line in came)


def test_nothing_that_could_open_anything_is_told() -> None:
    secret = {**A, "metrics": "http://user:secret@h:8002/metrics"}
    told = changed_settings(fleet(A), fleet(secret))
    assert len(told) == 1
    assert "secret" not in told[0]
