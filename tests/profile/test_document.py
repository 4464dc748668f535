from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.profile.document import batch_ladder, parse_profile, read_profile, render_profile, write_profile
from tests.profile.profiles import model_profile, profile_of, server_profile

TEXT = render_profile(profile_of())
Edit = Callable[[dict[str, Any]], object]


def model(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["servers"][0]["models"][1]
    return found


def test_what_was_written_is_read() -> None:
    assert parse_profile(TEXT) == profile_of()


@given(st.integers(1, 1024))
def test_batches_double_up_to_the_largest(max_batch_size: int) -> None:
    ladder = batch_ladder(max_batch_size)
    assert ladder[0] == 1
    assert ladder[-1] == max_batch_size
    assert all(later <= 2 * earlier < 2 * later for earlier, later in itertools.pairwise(ladder))
    assert all(items & (items - 1) == 0 for items in ladder[:-1])


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda v: v.update(version=2), "version: must be 1, got 2"),
        (lambda v: v.update(author="me"), "unknown key author; allowed here: version, conditions, servers"),
        (lambda v: v["servers"][1].pop("idle"), r"key servers[1].idle is missing"),
        (lambda v: model(v).update(speed=1), "unknown key servers[0].models[1].speed; allowed here: name, family"),
        (
            lambda v: model(v)["line"].update(item_s=-1e-9),
            "servers[0].models[1].line.item_s: must be a",
        ),
        (
            lambda v: model(v)["line"].update(item_s=float("nan")),
            "servers[0].models[1].line.item_s: must be",
        ),
        (lambda v: model(v)["batches"][0].update(mean_s=float("inf")), "batches[0].mean_s: must be"),
        (lambda v: model(v)["batches"][0].update(mean_s="1"), "batches[0].mean_s: must be a number"),
        (lambda v: model(v)["batches"][0].update(energy_source="guess"), "batches[0].energy_source: must be"),
        (
            lambda v: model(v).update(sha256="abc"),
            "servers[0].models[1].sha256: must be 64 hexadecimal digits, got 'abc'",
        ),
        (lambda v: model(v).update(width=0), "servers[0].models[1].width: must be at least 1"),
        (
            lambda v: model(v).update(accuracy=math.nan),
            "servers[0].models[1].accuracy: must be below inf, got NaN",
        ),
        (
            lambda v: model(v).update(accuracy=math.inf),
            "servers[0].models[1].accuracy: must be below inf, got Infinity",
        ),
        (
            lambda v: model(v)["batches"].pop(3),
            "models[1].batches: batch sizes 8 are missing; it takes 1, 2, 4, 8, 16, 32, got [1, 2, 4, 16, 32]",
        ),
        (lambda v: model(v)["batches"].reverse(), "batches: there are others, or they are out of order"),
        (lambda v: model(v)["batches"][0].update(p99_s=1e-9), "batches[0].p99_s: 1e-09 is below p50_s"),
        (lambda v: model(v)["batches"][0].update(busy_s=0.1), "models[1].batches: busy_s is known of some batch sizes"),
        (
            lambda v: [batch.update(busy_s=0.1) for batch in model(v)["batches"]],
            "batches[0].busy_s: it and rested_s are measured together",
        ),
        (
            lambda v: [batch.update(busy_s=0.0, rested_s=0.1) for batch in model(v)["batches"]],
            "batches[0].busy_s: must be above 0",
        ),
        (lambda v: model(v)["batches"][0].update(n=0), "batches[0].n: 0 does not go with origin 'measured'"),
        (lambda v: model(v)["batches"][0].update(energy_j=None), "energy_source are null together"),
        (
            lambda v: v["servers"][0]["idle"].update(power_w=3.0),
            "servers[0].idle: power_w and source are null together",
        ),
        (lambda v: v["servers"][0].update(slowdown=3.0), "servers[0].slowdown: 3.0 does not go with origin 'measured'"),
        (lambda v: v["servers"][0].update(origin="emulated"), "servers[0].slowdown: None does not go with"),
        (lambda v: v["servers"][0].update(triton_version=None), "servers[0].triton_version: null is allowed"),
        (lambda v: v["servers"][1].update(name="a"), "servers[1].name: 'a' is there twice"),
        (lambda v: model(v).update(name="fashion_w025"), "servers[0].models[1].name: 'fashion_w025' is there twice"),
        (lambda v: v.update(servers=[]), "servers: must have at least 1"),
    ],
)
def test_what_can_not_be_believed_is_refused_with_key_value_and_remedy(edit: Edit, problem: str) -> None:
    values = json.loads(TEXT)
    edit(values)
    with pytest.raises(ConfigError) as caught:
        parse_profile(json.dumps(values), source="p.json")
    message = str(caught.value)
    assert message.startswith(("p.json: ", "p.json has "))
    assert problem in message
    assert message.endswith("; take it again with 'slimsched profile'")
    assert "\n" not in message


@given(st.integers(0, len(TEXT.rstrip()) - 1))
def test_a_truncated_file_is_refused_in_one_short_line(length: int) -> None:
    with pytest.raises(ConfigError, match=r"profile\.json: is no JSON: ") as caught:
        parse_profile(TEXT[:length])
    assert len(str(caught.value)) < 200


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(profile_of(), path)
    path.chmod(0o600)
    other = profile_of(server_profile("c", model_profile(50)))
    write_profile(other, path)
    assert read_profile(path) == other
    assert [each.name for each in tmp_path.iterdir()] == ["profile.json"]


def test_what_would_be_refused_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there twice"):
        write_profile(profile_of(server_profile("a"), server_profile("a")), tmp_path / "profile.json")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no profile at .*absent.json; 'slimsched profile"):
        read_profile(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="can't read"):
        read_profile(tmp_path)
    with pytest.raises(ConfigError, match="can't write"):
        write_profile(profile_of(), tmp_path / "no" / "folder.json")


def test_an_unknown_key_is_told_with_those_of_the_file() -> None:
    values = json.loads(TEXT)
    model(values)["line"]["per_item_s"] = 0.1
    with pytest.raises(
        ConfigError, match=r"unknown key servers\[0\]\.models\[1\]\.line\.per_item_s; allowed here: item_s, group"
    ):
        parse_profile(json.dumps(values), source="p.json")
