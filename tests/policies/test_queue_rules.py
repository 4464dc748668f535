"""Rules of the queue that are numbers alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.queue_rules import slack_used


@pytest.mark.parametrize(
    ("elapsed_s", "allowed_s", "service_s", "used"),
    [
        (0.02, 0.1, 0.02, 0.0),  # as soon as could be
        (0.06, 0.1, 0.02, 0.5),
        (0.1, 0.1, 0.02, 1.0),
        (0.01, 0.1, 0.02, 0.0),  # sooner than was expected
        (0.099, 0.1, 0.095, 0.0),  # there was nothing to spare
        (0.101, 0.1, 0.095, math.inf),
        (0.101, 0.1, 5.0, 0.0),  # nobody could have kept it
    ],
)
def test_what_a_request_used_is_of_the_time_that_its_batch_leaves(
    elapsed_s: float, allowed_s: float, service_s: float, used: float
) -> None:
    assert slack_used(elapsed_s, allowed_s, service_s) == pytest.approx(used)


@given(st.floats(0, 10), st.floats(0.001, 10), st.floats(0, 10))
def test_who_is_late_has_used_all_of_it_and_who_is_not_has_not(
    elapsed_s: float, allowed_s: float, service_s: float
) -> None:
    used = slack_used(elapsed_s, allowed_s, service_s)
    assert used >= 0
    is_late = elapsed_s > allowed_s and service_s < allowed_s
    assert (used > 1) == is_late or elapsed_s == pytest.approx(allowed_s)
