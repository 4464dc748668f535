from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation.tuning.space import SEARCHED, configurations, tuned_policies
from orchestrator.policies.parsing import knobs_of, parse_policy
from orchestrator.policies.registry import policy_names
from orchestrator.snapshot import Width

WIDTHS = [Width(w) for w in (25, 50, 100)]


def test_all_policies_are_tuned_but_the_paper_s_baseline() -> None:
    assert {p.partition(":")[0] for p in tuned_policies()} == set(policy_names()) - {"random", "random-batch"}
    assert "jsq:slack" in tuned_policies()
    assert {"achq", "nexus", "control-limit", "slackfit"} <= set(tuned_policies())


@pytest.mark.parametrize("policy", tuned_policies())
def test_each_gets_the_same_number_of_allowed_configurations_its_default_first(policy: str) -> None:
    specs = configurations(policy, WIDTHS, 32, 0)
    assert len(specs) == 32
    assert specs[0] == policy
    assert len(set(specs)) >= 30
    for spec in specs:
        parse_policy(spec)  # refuses what is not allowed
    assert configurations(policy, WIDTHS, 32, 0) == specs
    assert configurations(policy, WIDTHS, 32, 1)[1:] != specs[1:]
    assert configurations(policy, WIDTHS, 5, 0) == specs[:5]


@pytest.mark.parametrize("policy", tuned_policies())
def test_every_knob_is_searched_over_most_of_its_range(policy: str) -> None:
    name = policy.partition(":")[0]
    specs = configurations(policy, WIDTHS, 32, 0)[1:]
    for knob in ("slack_margin", *(k.name for k in knobs_of(name))):
        texts = [dict(part.split("=") for part in spec.split(",")[1:])[knob] for spec in specs]
        for rank in range(texts[0].count("/") + 1):
            values = np.array([float(text.split("/")[rank]) for text in texts])
            least, most = SEARCHED[knob]
            assert values.min() >= least
            assert values.max() <= most
            is_log = knob == "slack_margin" or next(k for k in knobs_of(name) if k.name == knob).is_log
            places = (
                np.log(values / least) / math.log(most / least)
                if is_log and least
                else (values - least) / (most - least)
            )
            # A Sobol sequence leaves no quarter empty.
            assert set(np.minimum(places * 4, 3).astype(int)) == {0, 1, 2, 3}


def test_half_of_the_configurations_run_at_a_fixed_width_of_the_fleet() -> None:
    rules = [spec.partition(",")[0].partition(":")[2] for spec in configurations("jsq:slack", WIDTHS, 33, 0)[1:]]
    assert rules.count("slack") == 16
    assert {r for r in rules if r != "slack"} == {"25", "50", "100"}


def test_what_is_not_tuned_is_refused() -> None:
    for policy in ("random", "jsq", "best"):
        with pytest.raises(ConfigError, match=f"policy '{policy}' is none that is tuned; known: round-robin:slack"):
            configurations(policy, WIDTHS, 4, 0)
