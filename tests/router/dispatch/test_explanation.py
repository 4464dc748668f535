"""What is said of a decision is what it weighed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.router.dispatch.explanation import explain


def candidate(server: str, width: int, **times: float) -> dict[str, Any]:
    known = {"wait_s": 0.0, "item_s": 0.001 * width / 25, "group_s": 0.002, "drain_s": 0.01, "margin": 1.5} | times
    completion_s = known["wait_s"] + 4 * known["item_s"] + known["group_s"]
    head_s = known["wait_s"] + known["item_s"] + known["group_s"]
    return {"server": server, "width": width, "completion_s": completion_s, "head_completion_s": head_s} | known


def record(*candidates: dict[str, Any], reason: str = "least expected completion", **queue: float) -> dict[str, Any]:
    first = candidates[0]
    return {
        "reason": reason,
        "policy": "lert:brownout",
        "slack_margin": 1.25,
        "choice": {"server": first["server"], "width": first["width"], "items": 4},
        "queue": {"head_slack_s": 0.05, "tail_slack_s": 0.06} | queue,
        "candidates": list(candidates),
    }


def test_what_was_expected_is_said_with_its_quantile_and_what_was_left() -> None:
    said, *_ = explain(record(candidate("a", 25, wait_s=0.004)))
    assert said == (
        "a at 25 % was expected to answer in 10.0 ms, 4.0 ms of them behind what it had, and 97 times in 100 within "
        "15.0 ms; the head was due in 50.0 ms."
    )
    unknown, *_ = explain(record(candidate("a", 25) | {"margin": None}))
    assert "6.0 ms, and 97 times in 100 within 7.5 ms" in unknown, "what the settings say where nothing was observed"


@pytest.mark.parametrize(
    ("wider", "reason", "said"),
    [
        ({"wait_s": 0.04}, "least expected completion", "50 % might have been too late: a would have taken up to 75"),
        ({"drain_s": 1.5}, "least expected completion", "At 50 % all servers together would have taken 1500.0 ms"),
        ({"drain_s": 0.05}, "least expected completion", "At 50 % all servers together would have taken 50.0 ms"),
        (
            {},
            "least expected completion, below the ceiling that misses have lowered",
            "50 % would have been in time, but late or refused requests, or the load, had ruled it out for now.",
        ),
        ({}, "least expected completion", "50 % would have been in time as well."),
    ],
)  # fmt: skip
def test_what_the_next_wider_width_lacked_is_said(wider: dict[str, float], reason: str, said: str) -> None:
    found = list(explain(record(candidate("a", 25), candidate("a", 50, **wider), reason=reason)))
    assert found[1].startswith(said)


def test_the_next_best_server_is_named_with_what_it_lacked() -> None:
    found = list(explain(record(candidate("a", 25), candidate("b", 25, wait_s=0.007), candidate("c", 25, wait_s=0.02))))
    assert found[1:] == [
        "No server serves a wider width that the request allows.",
        "b, the next best at 25 %, would have answered the head 7.0 ms later.",
    ]


def test_where_no_other_server_has_that_width_the_next_narrower_one_comes_second() -> None:
    narrower = candidate("a", 25), candidate("b", 50, wait_s=0.03), candidate("c", 50, wait_s=0.02)
    assert list(explain(record(candidate("a", 100, wait_s=0.01), *narrower)))[2:] == [
        "c at 50 %, the next best, would have answered the head 8.0 ms later, less accurately."
    ]
    assert list(explain(record(candidate("a", 50, wait_s=0.01), candidate("b", 25, wait_s=0.004))))[2:] == [
        "b at 25 %, the next best, would have answered the head 7.0 ms sooner, less accurately."
    ]
    assert len(list(explain(record(candidate("a", 50))))) == 2, "nobody came second"


def test_of_rules_that_weigh_otherwise_only_what_was_expected_is_said() -> None:
    fixed = record(candidate("a", 25), candidate("b", 50)) | {"policy": "lert:25"}
    assert len(list(explain(fixed))) == 1
    assert list(explain(record(candidate("a", 25)) | {"choice": None})) == []
