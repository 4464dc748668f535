from __future__ import annotations

import pytest

from orchestrator.decision import Decision, Dispatch, Hold, Reason
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.profile.fit import LatencyTable
from orchestrator.snapshot import QueueState, ServerState
from tests.policies.fleets import WIDTHS, build_candidates, fleet_server, latencies

# Expected seconds of 1, 2, 4 and 8 items: 0.003, 0.004, 0.006, 0.010 at 25 % and 0.006, 0.010, 0.018, 0.034 at 100 %.
LATENCY = latencies(
    a={25: (0.001, 0.002), 100: (0.004, 0.002)},
    fast={25: (0.0005, 0.001), 100: (0.002, 0.001)},
    slow={25: (0.01, 0.02), 100: (0.04, 0.02)},
)


def server(name: str = "a", *, batches: int = 0, items: int = 8, **values: object) -> ServerState:
    held = ((100, items, 0.0),) * batches
    return fleet_server(name, (25, 100), max_batch_size=8, held=held, **values)  # type: ignore[arg-type]


def decide(
    policy: str,
    servers: list[ServerState],
    *,
    slack_s: float,
    items: int = 100,
    head: int = 1,
    margin: float = 1.0,
    latency: LatencyTable = LATENCY,
) -> Decision:
    queue = QueueState(items, head, slack_s, slack_s, WIDTHS)
    candidates = build_candidates(servers, queue, latency, now_s=0.0, slack_margin=margin)
    return parse_policy(policy).choose(candidates, Situation(queue, 0.0, 0, (0.5, 0.5), margin))


def chosen(policy: str, *servers: ServerState, **values: object) -> tuple[str, int, int]:
    decision = decide(policy, list(servers) or [server()], **values)  # type: ignore[arg-type]
    assert isinstance(decision, Dispatch)
    return decision.candidate.server, decision.candidate.width, decision.candidate.items


@pytest.mark.parametrize(
    ("slack_s", "throughput", "accuracy"),
    [
        # Four buckets of 7.75 ms from 3 ms on; upper bounds 10.75, 18.5, 26.25 and 34 ms.
        (0.007, (25, 4), (100, 1)),  # below the first bound: the pairs that are in time
        (0.012, (25, 8), (100, 2)),
        (0.020, (100, 4), (100, 4)),
        (0.030, (100, 4), (100, 4)),  # the third bucket holds none, so the second
        (0.050, (100, 8), (100, 8)),
    ],
)
def test_slackfit_fills_the_slack_of_the_head(
    slack_s: float, throughput: tuple[int, int], accuracy: tuple[int, int]
) -> None:
    assert chosen("slackfit:4", slack_s=slack_s) == ("a", *throughput)
    assert chosen("slackfit-accuracy:4", slack_s=slack_s) == ("a", *accuracy)


def test_slackfit_runs_what_waits_when_that_is_less_than_the_batch() -> None:
    assert chosen("slackfit:4", slack_s=0.012, items=3) == ("a", 25, 3)


def test_slackfit_never_splits_the_head() -> None:
    assert chosen("slackfit-accuracy:4", slack_s=0.020, head=3) == ("a", 100, 4)
    assert chosen("slackfit-accuracy:4", slack_s=0.012, head=3) == ("a", 25, 8)  # not the 2 at 100 %
    assert chosen("slackfit-accuracy:4", slack_s=0.008, head=5) == ("a", 25, 5)  # no power of two is in time


def test_slackfit_counts_the_margin_and_what_the_server_has() -> None:
    assert chosen("slackfit:4", slack_s=0.020, margin=1.5) == ("a", 25, 8)
    # 34 ms of work first: every bound moves by as much.
    assert chosen("slackfit:4", server(batches=1), slack_s=0.034 + 0.020) == ("a", 100, 4)


def test_slackfit_has_buckets_for_each_server_and_asks_the_one_that_is_free_first() -> None:
    # On a scale over both, up to 340 ms, all that the fast one can do would lie in the first bucket.
    assert chosen("slackfit:4", server("fast"), server("slow"), slack_s=0.010) == ("fast", 100, 4)
    assert chosen("slackfit:4", server("fast", batches=1), server("slow"), slack_s=0.4)[0] == "slow"


def test_a_slow_server_takes_no_more_than_it_answers_before_the_fast_one_would() -> None:
    # The fast one is free after 34 ms: 17 + 17 ms of two batches of 8.
    fast = server("fast", batches=2, batch_limit=2)
    assert chosen("slackfit:4", fast, server("slow"), slack_s=0.4) == ("slow", 100, 1)


def test_max_accuracy_takes_the_widest_in_time_then_the_largest_batch() -> None:
    assert chosen("max-accuracy", slack_s=0.0055) == ("a", 25, 3)
    assert chosen("max-accuracy", slack_s=0.020) == ("a", 100, 4)
    assert chosen("max-accuracy", server(), server("fast"), slack_s=0.020) == ("fast", 100, 8)


def test_max_batch_takes_the_largest_batch_in_time_then_the_widest() -> None:
    assert chosen("max-batch", slack_s=0.0055) == ("a", 25, 3)
    assert chosen("max-batch", slack_s=0.020) == ("a", 25, 8)
    assert chosen("max-batch", slack_s=0.050) == ("a", 100, 8)
    assert chosen("max-batch", slack_s=0.020, items=2) == ("a", 100, 2)


def test_ties_go_to_the_server_that_answers_first_then_to_the_first_name() -> None:
    latency = latencies(a={100: (0.01, 0.0)}, b={100: (0.01, 0.0)}, c={100: (0.009, 0.0)})
    fleet = [fleet_server(name) for name in "cba"]
    for policy in ("max-accuracy", "max-batch"):
        assert chosen(policy, *fleet, slack_s=1, items=1, latency=latency)[0] == "c"
        assert chosen(policy, *fleet[1:], slack_s=1, items=1, latency=latency)[0] == "a"
    assert chosen("slackfit", *fleet, slack_s=1, latency=latency)[0] == "a"


CENTRAL = ["slackfit", "slackfit-accuracy:8", "max-accuracy", "max-batch"]


@pytest.mark.parametrize("policy", CENTRAL)
def test_all_bind_late_and_hold_without_candidates(policy: str) -> None:
    assert parse_policy(policy).binding is Binding.LATE
    assert parse_policy(policy).name == policy
    assert decide(policy, [], slack_s=1.0) == Hold(Reason.NO_CANDIDATE)


@pytest.mark.parametrize("policy", CENTRAL)
def test_a_head_that_only_a_busy_server_can_answer_in_time_waits_for_it(policy: str) -> None:
    busy = server("fast", batches=2, items=1)  # free after 6 ms
    assert decide(policy, [busy, server("slow")], slack_s=0.010) == Hold(Reason.BETTER_SERVER_BUSY)
    assert chosen(policy, busy, server("slow"), slack_s=0.4)[0] == "slow"


@pytest.mark.parametrize("policy", CENTRAL)
def test_when_nothing_is_in_time_the_queue_is_drained(policy: str) -> None:
    decision = decide(policy, [server()], slack_s=0.001)
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.width, decision.candidate.items) == (25, 8)
    assert decision.reason is Reason.NONE_IN_TIME
    assert decide(policy, [server(batches=2)], slack_s=0.001) == Hold(Reason.BETTER_SERVER_BUSY)


def test_reasons_tell_the_rules_apart() -> None:
    reasons = []
    for policy in CENTRAL:
        decision = decide(policy, [server()], slack_s=0.02)
        assert isinstance(decision, Dispatch)
        reasons.append(decision.reason)
    assert reasons == [Reason.SLACK_BUCKET, Reason.SLACK_BUCKET, Reason.MOST_ACCURATE, Reason.LARGEST_BATCH]
