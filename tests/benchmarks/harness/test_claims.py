from __future__ import annotations

from benchmarks.harness.claims import claims_table, encode_claim
from orchestrator.reporting.blocks import render_markdown
from orchestrator.reporting.claim import Claim, Interval


def test_a_claim_is_shown_in_json_and_in_a_row() -> None:
    claims = [Claim("rate", 1234.5, "1/s", 1000, is_floor=True), Claim("lost", None, "", 0)]
    assert encode_claim(claims[0]) == {
        "name": "rate",
        "value": 1234.5,
        "unit": "1/s",
        "bar": 1000,
        "bar_is": "at least",
        "interval": None,
        "met": True,
    }
    assert render_markdown([claims_table(claims)]) == (
        "| claim | value | bar | unit |  |\n| --- | --- | --- | --- | --- |\n"
        "| rate | 1,234.50 | ≥ 1,000 | 1/s | met |\n| lost | none | ≤ 0 |  | **not met** |\n"
    )


def test_intervals_are_shown_where_there_are_any() -> None:
    sure = Claim("saved", 0.25, "ratio", 0.2, is_floor=True, interval=Interval(0.2, 0.3))
    page = render_markdown([claims_table([sure, Claim("lost", 0, "", 0)])])
    assert "| saved | 0.25 | 0.20 to 0.30 | ≥ 0.20 | ratio | met |" in page
    assert "| lost | 0 |  | ≤ 0 |  | met |" in page


def test_small_numbers_have_as_many_decimals_as_are_asked_for() -> None:
    claims = [Claim("error", 0.0412, "", 0.05, interval=Interval(0.0399, 0.05)), Claim("rate", 2.0, "", 3)]
    page = render_markdown([claims_table(claims, decimals=4)])
    assert "| error | 0.0412 | 0.0399 to 0.0500 | ≤ 0.0500 |  | met |" in page
    assert "| rate | 2 |  | ≤ 3 |  | met |" in page
