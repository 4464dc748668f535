"""A policy file is used whole or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.paper import paper_shapes
from orchestrator.policies.learned.policy import LearnedPolicy, parse_fitted, parse_learned
from orchestrator.policies.learned.policy_file import RULE, PolicyFile, read_policy_file, write_policy_file
from orchestrator.policies.parsing import knobs_of, parse_policy
from orchestrator.policies.registry import RulePolicy
from tests.policies.learned.test_policy import slim, trained


def written(path: Path, **values: Any) -> Path:
    write_policy_file(path, slim(weights=trained(), **values))
    return path


def rewritten(path: Path, change: Any) -> Path:
    """Change header and arrays of a file as ``change`` does."""
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    header = json.loads(bytes(arrays["header"]))
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.npz", provenance={"seed": 3}, validation={"score": 0.5}, strength=4.0)
    found = read_policy_file(path)
    assert (found.kind, found.base, found.strength) == ("ppo-slim", "lert:slack", 4.0)
    assert (found.provenance, found.validation) == ({"seed": 3}, {"score": 0.5})
    for name, weight in trained().items():
        np.testing.assert_array_equal(found.weights[name], weight)
    assert parse_learned("ppo-slim", path).name == "ppo-slim"
    assert [p.name for p in tmp_path.iterdir()] == ["policy.npz"]


def test_a_file_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "policy.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="copy it again, or train one"):
            read_policy_file(path)
    for at in range(200, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = read_policy_file(path)
        except ConfigError:
            continue
        for name, weight in trained().items():  # a byte that nothing rests on, such as a time stamp
            np.testing.assert_array_equal(found.weights[name], weight)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda h, a: h.update(format_version=2), "format_version is 2, this version reads 1"),
        (lambda h, a: h.update(features_version=1), "features_version is 1, this router shows 4"),
        (lambda h, a: h["features"].reverse(), "feature table is not the one"),
        (lambda h, a: h.update(kind="ppo-other"), "kind 'ppo-other'"),
        (lambda h, a: h.update(preference=[1, 1, 1]), "does not add up to 1"),
        (lambda h, a: h.pop("base"), "header is incomplete"),
        (lambda h, a: h.update(strength=float("nan")), "strength is nan"),
        (lambda h, a: h.update(strength=10**400), "header is incomplete (OverflowError"),
        (lambda h, a: h.update(fleet=[3, 4, float("inf")]), "header is incomplete (OverflowError"),
        (lambda h, a: a.pop("out.weight"), "missing or unknown: out.weight"),
        (lambda h, a: a.update(extra=np.zeros(1, np.float32)), "missing or unknown: extra"),
        (lambda h, a: a.update({"out.weight": np.zeros(3, np.float32)}), "weight is float32 [3], not float32 [32, 2]"),
        (lambda h, a: a.update({"out.weight": np.zeros(32)}), "out.weight is float64 [32]"),
        (lambda h, a: a["out.weight"].fill(np.inf), "not finite"),
        (lambda h, a: a["out.weight"].fill(7), "not those that it was written with"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, change: Any, problem: str) -> None:
    path = rewritten(written(tmp_path / "policy.npz"), lambda h, a: None)
    read_policy_file(path)  # so it is the change that is refused
    rewritten(path, change)
    with pytest.raises(ConfigError) as raised:
        read_policy_file(path)
    assert problem in str(raised.value)


def test_a_ppo_paper_whose_batches_nobody_waits_for_is_refused(tmp_path: Path) -> None:
    shapes, fleet = paper_shapes(2, 1, 4), (2, 1, 4)
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path = tmp_path / "policy.npz"
    write_policy_file(path, slim(kind="ppo-paper", weights=weights, fleet=fleet))
    assert read_policy_file(path).fleet == fleet
    older = {name.replace("choices", "out"): array for name, array in weights.items()}
    write_policy_file(path, slim(kind="ppo-paper", weights=older, fleet=fleet))
    with pytest.raises(ConfigError, match="how many are waited for now; copy it again, or train one"):
        read_policy_file(path)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    np.savez(path, header=np.array([object()], dtype=object))
    with pytest.raises(ConfigError, match="damaged or no policy"):
        read_policy_file(path)


def test_another_kind_and_a_file_that_is_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds ppo-slim, not ppo-paper"):
        parse_learned("ppo-paper", written(tmp_path / "policy.npz"))
    with pytest.raises(ConfigError, match="can't read the policy"):
        parse_learned("ppo-slim", tmp_path / "none.npz")


def test_weights_of_objectives_stand_behind_the_name(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.npz")
    assert parse_learned(f"ppo-slim:{path}").file.preference is None
    assert parse_learned("ppo-slim,energy=2", path).file.preference == pytest.approx((0.25, 0.25, 0.5))
    with pytest.raises(ConfigError, match="all weights are 0"):
        parse_policy(f"ppo-slim:{path},accuracy=0,latency=0,energy=0")
    assert [knob.name for knob in knobs_of("ppo-slim")] == ["accuracy", "latency", "energy"]


def test_fitted_is_what_its_file_holds_rule_or_learned(tmp_path: Path) -> None:
    path, ranges = tmp_path / "fitted.npz", np.zeros(feat.FEATURES + feat.CONTEXT, np.float32)
    write_policy_file(path, PolicyFile(RULE, "thrift,worth=0.3", {}, ranges, ranges))
    rule = parse_policy(f"fitted:{path}")
    assert isinstance(rule, RulePolicy)
    assert rule.name == "thrift,worth=0.3"
    assert (rule.numbers == parse_policy("thrift,worth=0.3").numbers).all()  # type: ignore[union-attr]
    written(path)
    learned = parse_fitted("fitted", path)
    assert isinstance(learned, LearnedPolicy)
    assert learned.name == "ppo-slim"
    with pytest.raises(ConfigError, match="'fitted' comes from a file"):
        parse_policy("fitted")
    write_policy_file(path, PolicyFile(RULE, "thrift,no=1", {}, ranges, ranges))
    with pytest.raises(ConfigError, match="'no=1' is no knob"):
        parse_fitted("fitted", path)
    with pytest.raises(ConfigError, match="holds rule, not ppo-slim"):
        parse_learned("ppo-slim", path)
