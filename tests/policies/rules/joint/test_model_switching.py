from __future__ import annotations

from orchestrator.decision import Candidate
from tests.policies.cases import Asker, line_candidate


def fleet() -> list[Candidate]:
    """Return one server that serves 100, 200 and 400 items a second, at widths 100, 50 and 25."""
    return [line_candidate("a", width, per_item_s=width / 1e4) for width in (25, 50, 100)]


def run(asker: Asker, rate_rps: float, *, from_s: float, for_s: float) -> list[int]:
    """Return the widths of decisions about single requests that arrive evenly."""
    count = int(rate_rps * for_s)
    return [asker.choice(fleet(), now_s=from_s + i / rate_rps, slack_s=1.0)[1] for i in range(count)]


def test_the_width_is_the_widest_whose_capacity_at_that_load_is_demanded() -> None:
    for rate_rps, width in ((70.0, 100), (90.0, 50), (150.0, 50), (170.0, 25), (900.0, 25)):
        assert run(Asker("model-switching,load=0.8,window_s=0.2"), rate_rps, from_s=0.0, for_s=2.0)[-1] == width


def test_it_narrows_at_once_and_widens_one_width_after_another() -> None:
    asker = Asker("model-switching,load=0.8,window_s=0.2,hold_s=1")
    assert run(asker, 300.0, from_s=0.0, for_s=2.0)[-1] == 25
    widths = run(asker, 50.0, from_s=2.0, for_s=4.0)
    assert [w for w, before in zip(widths, [25, *widths], strict=False) if w != before] == [50, 100]
    since = [i / 50 for i, w in enumerate(widths) if w == 50]
    assert 1.0 <= since[0] <= 2.0  # a second of room, once the rate of the last windows has fallen
    assert since[-1] - since[0] >= 0.9  # and another one for the next width
    assert run(asker, 300.0, from_s=6.0, for_s=1.0)[-1] == 25


def test_a_backlog_counts_as_the_demand_that_would_be_gone_in_time() -> None:
    assert Asker("model-switching,load=1").choice(fleet(), items=90, slack_s=1.0)[1] == 100
    assert Asker("model-switching,load=1").choice(fleet(), items=150, slack_s=1.0)[1] == 50
