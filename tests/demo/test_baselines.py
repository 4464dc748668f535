"""Who is meant by what is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config import RouterSettings
from orchestrator.demo.baselines import BASELINES, check_baselines, make_baseline, make_baselines, only_family
from orchestrator.errors import ConfigError
from orchestrator.snapshot import Family
from tests.fakes.servers import served_model

MODELS = [served_model(width) for width in (25, 50, 100)]


def test_the_default_is_compared_with_both_extremes_a_rule_and_plain_triton() -> None:
    found = {
        baseline.name: (baseline.policy, baseline.model, baseline.width)
        for baseline in (make_baseline(s, MODELS) for s in BASELINES)
    }
    assert found == {
        "default": (None, None, None),
        "always 25 %": ("lert:25", None, 25),
        "always 100 %": ("lert:100", None, 100),
        "lert:slack": ("lert:slack", None, None),
        "plain Triton": (None, "fashion_w100", 100),
    }
    assert RouterSettings().policy in make_baseline("default", MODELS).text


def test_what_is_no_policy_and_what_is_named_twice_is_refused() -> None:
    check_baselines([*BASELINES, "thrift"])
    with pytest.raises(ConfigError, match="fastest"):
        check_baselines(["fastest"])
    with pytest.raises(ConfigError, match="'triton' is named twice"):
        check_baselines(["triton", "lert", "triton"])


def test_the_only_width_of_a_family_is_compared_once() -> None:
    names = [baseline.name for baseline in make_baselines(BASELINES, MODELS[:1])]
    assert names == ["default", "always 25 %", "lert:slack", "plain Triton"]


def test_models_are_of_one_family_and_ascend() -> None:
    family, models = only_family(MODELS[::-1])
    assert family == "fashion"
    assert [model.width for model in models] == [25, 50, 100]
    other = replace(MODELS[0], family=Family("cats"))
    with pytest.raises(ConfigError, match="serves cats, fashion"):
        only_family([*MODELS, other])
    with pytest.raises(ConfigError, match="serves no family"):
        only_family([])
