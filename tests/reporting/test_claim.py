from __future__ import annotations

import math

import pytest

from orchestrator.reporting.claim import Claim, Interval


@pytest.mark.parametrize(
    ("claim", "met"),
    [
        (Claim("", 0.2, "", 0.15, is_floor=True, interval=Interval(0.1, 0.3)), True),
        (Claim("", 0.1, "", 0.15, is_floor=True, interval=Interval(0.1, 0.3)), False),
        (Claim("", 0.1, "", 0.15), True),
        (Claim("", 0.2, "", 0.15, is_floor=True, interval=Interval(-0.1, 0.5), is_certain=True), False),
        (Claim("", 0.2, "", 0.15, is_floor=True, is_certain=True), False),
        (Claim("", math.nan, "", 0.15, is_floor=True), False),
        (Claim("", None, "", 0.15), False),
    ],
)
def test_a_claim_is_met_only_when_all_of_it_is(claim: Claim, met: bool) -> None:
    assert claim.is_met is met


def test_a_claim_is_shown_in_a_line() -> None:
    claims = [Claim("rate", 1234.5, "1/s", 1000, is_floor=True), Claim("lost", None, "", 0)]
    assert list(map(str, claims)) == ["met      rate: 1234.50 >= 1000.00 1/s", "NOT MET  lost: none <= 0.00"]
