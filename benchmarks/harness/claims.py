"""Claims as JSON values and as a table, as every benchmark but the suites of policies shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from orchestrator.reporting.blocks import Table
from orchestrator.reporting.claim import Claim

_DIGITS = 4


def encode_claim(claim: Claim) -> dict[str, Any]:
    """Return a claim as JSON values."""
    return {
        "name": claim.name,
        "value": None if claim.value is None else round(claim.value, _DIGITS),
        "unit": claim.unit,
        "bar": round(claim.bar, _DIGITS),
        "bar_is": "at least" if claim.is_floor else "at most",
        "interval": None if claim.interval is None else [round(end, _DIGITS) for end in astuple(claim.interval)],
        "met": claim.is_met,
    }


def claims_table(claims: Sequence[Claim], *, decimals: int = 2) -> Table:
    """Return a row a claim, with intervals where there are any; numbers that are not whole have so many decimals."""
    with_intervals = any(claim.interval is not None for claim in claims)
    head = ("claim", "value", *(("95 % interval",) if with_intervals else ()), "bar", "unit", "")

    def number(value: float | None) -> str:
        if value is None:
            return "none"
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{decimals}f}"

    def row(claim: Claim) -> tuple[str, ...]:
        ends = claim.interval
        interval = "" if ends is None else f"{number(ends.low)} to {number(ends.high)}"
        return (
            claim.name,
            number(claim.value),
            *((interval,) if with_intervals else ()),
            f"{'≥' if claim.is_floor else '≤'} {number(claim.bar)}",
            claim.unit,
            "met" if claim.is_met else "**not met**",
        )

    return Table(head, list(map(row, claims)))
