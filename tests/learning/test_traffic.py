"""Recorded arrivals come in three parts that share nothing, and what can't be used is refused in words."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.learning.arrivals import Recorded, read_arrivals
from orchestrator.learning.objective import NO_PREFERENCE
from orchestrator.learning.traffic import (
    CHOOSING,
    LEAST_DEADLINES,
    WINDOWS,
    Traffic,
    check_fleet,
    surge,
)
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import routed
from tests.simulation.test_several_families import two_servers
from tests.simulation.test_world_batch import task
from tests.simulation.worlds import scenario


def fleet() -> Task:
    made = task(2, requests=500)
    return Task(made.settings, made.servers, NO_PREFERENCE)


def recorded(count: int = 8000, rate_rps: float = 100.0) -> Recorded:
    gaps = np.random.default_rng(0).exponential(1 / rate_rps, count)
    return Recorded(1e9 + np.cumsum(gaps), "log")


def place(trace: Trace, times_s: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Which part of what was recorded a trace replays."""
    gaps, own = np.diff(times_s), np.diff(trace.arrived_s)
    first = next(
        at
        for at in np.flatnonzero(np.isclose(gaps, own[0], atol=1e-6, rtol=0)).tolist()
        if np.allclose(gaps[at : at + len(own)], own, atol=1e-6, rtol=0)
    )
    return first / len(times_s), (first + len(own) + 1) / len(times_s)


def test_of_each_four_episodes_one_is_denser_and_one_has_lulls_where_the_task_says_so() -> None:
    plain, crowded = Traffic(fleet(), None), Traffic(replace(fleet(), crowding=1.25), None)
    deadline_s = fleet().settings.objectives.deadline_ms / 1e3
    for number in range(8):
        as_it_is, episode = plain.episode(number), crowded.episode(number)
        np.testing.assert_allclose(episode.deadline_s - episode.arrived_s, as_it_is.deadline_s - as_it_is.arrived_s)
        longer_s = np.diff(episode.arrived_s) - np.diff(as_it_is.arrived_s)
        if number % 4 == 1:
            np.testing.assert_allclose(episode.arrived_s * 1.25, as_it_is.arrived_s)
            assert episode.rate_rps == pytest.approx(1.25 * as_it_is.rate_rps)
        elif number % 4 == 3:
            lulls_s = longer_s[longer_s > 1e-9]
            assert len(lulls_s) == np.floor(as_it_is.arrived_s[-1] / (10 * deadline_s))
            assert ((0.5 * deadline_s <= lulls_s) & (lulls_s <= 64 * deadline_s)).all()
            assert longer_s.min() > -1e-9
        else:
            np.testing.assert_array_equal(episode.arrived_s, as_it_is.arrived_s)


def test_a_surge_brings_what_comes_anyway_in_less_time() -> None:
    calm = Traffic(fleet(), None).fit(0)
    calm = replace(calm, arrived_s=np.arange(500.0), deadline_s=np.arange(500.0) + 7)
    dense = surge(calm, every_s=100.0, lasts_s=20.0, factor=4.0)
    gaps = np.diff(dense.arrived_s)
    assert gaps[:20].tolist() == [0.25] * 20
    assert gaps[20:99].tolist() == [1.0] * 79
    np.testing.assert_allclose(
        dense.arrived_s, dense.arrived_s[:100].tolist() * 5 + np.repeat(np.arange(5) * 85.0, 100)
    )
    np.testing.assert_array_equal(dense.deadline_s - dense.arrived_s, 7.0)


def test_recorded_arrivals_are_replayed_in_parts_that_share_nothing() -> None:
    log = recorded()
    traffic = Traffic(fleet(), log)
    fitted = [place(traffic.fit(number), log.times_s) for number in range(20)]
    learned = [place(traffic.episode(number), log.times_s) for number in range(0, 20, 2)]
    validated = [place(trace, log.times_s) for trace in traffic.validating()]
    assert max(end for _, end in learned) <= 0.45
    assert (min(validated)[0], max(validated)[1]) == (pytest.approx(0.45, abs=1e-3), pytest.approx(0.6, abs=1e-3))
    chosen = [place(trace, log.times_s) for trace in traffic.choosing()]
    held_out = [place(trace, log.times_s) for trace in traffic.held_out()]
    assert max(end for _, end in fitted) <= 0.6
    assert min(begin for begin, _ in fitted) < 0.1 < 0.4 < max(begin for begin, _ in fitted)  # all of the part
    assert (min(chosen)[0], max(chosen)[1]) == (pytest.approx(0.6, abs=1e-3), pytest.approx(0.75, abs=1e-3))
    assert (min(held_out)[0], max(held_out)[1]) == (pytest.approx(0.75, abs=1e-3), pytest.approx(1.0, abs=1e-3))
    assert (len(chosen), len(held_out)) == (CHOOSING, WINDOWS)
    begins = sorted(held_out)
    assert all(one[1] <= other[0] + 2e-3 for one, other in pairwise(begins))  # nor do windows


def test_recorded_arrivals_keep_the_deadlines_that_a_scenario_draws() -> None:
    given = fleet()
    mixed = replace(given, settings=given.settings.with_workload(deadlines_ms={30: 1.0, 300: 1.0}))
    trace = Traffic(mixed, recorded()).fit(0)
    assert set((trace.deadline_s - trace.arrived_s).round(6).tolist()) == {0.03, 0.3}


def test_a_window_is_the_same_each_time_and_noise_is_its_own() -> None:
    traffic = Traffic(fleet(), recorded())
    one, other = traffic.held_out(), traffic.held_out()
    np.testing.assert_array_equal(one[3].noise, other[3].noise)
    np.testing.assert_array_equal(one[3].arrived_s, other[3].arrived_s)
    assert not np.array_equal(one[3].noise, one[4].noise)
    np.testing.assert_allclose(one[0].deadline_s - one[0].arrived_s, 0.06)
    assert traffic.rate_rps == pytest.approx(100, rel=0.05)


def test_traces_of_a_shape_are_of_other_seeds_in_each_part() -> None:
    traffic = Traffic(fleet(), None)
    traces = [*(traffic.fit(n) for n in range(3)), *traffic.validating(), *traffic.choosing(), *traffic.held_out()]
    assert len({trace.arrived_s.tobytes() for trace in traces}) == len(traces)
    per_deadline = traffic.rate_rps * 0.06
    assert traffic.requests >= LEAST_DEADLINES * per_deadline


def test_too_few_arrivals_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"log holds 1000 arrivals; (\d+) are needed") as refused:
        Traffic(fleet(), recorded(1000))
    needed = int(str(refused.value).split("; ")[1].split()[0])
    Traffic(fleet(), recorded(needed + 600))  # the rate is measured anew, so a little more
    with pytest.raises(ConfigError, match="are needed"):
        Traffic(fleet(), recorded(needed - 600))


def decision(
    at_s: float, number: int, *, family: str = "f", error: str | None = None, servers: tuple[str, ...] = ("s0", "s1")
) -> Any:
    """A decision about two requests, the first of which waits for 0.3 s and the second for 0.1 s."""
    requests = [{"items": 1, "queue_s": 0.3}, {"items": 1, "queue_s": 0.1}]
    return {
        "id": f"a0-{number}",
        "at": at_s,
        "family": family,
        "queue": {"head_items": 1, "head_age_s": 0.3},
        "candidates": [{"server": server} for server in servers],
        "outcome": {"error": error} if error == "rejected" else {"error": error, "requests": requests},
    }


def log_of(folder: Path, records: list[Any], name: str = "decisions-a.jsonl", end: str = "") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return path


def test_a_decision_log_says_when_requests_arrived(tmp_path: Path) -> None:
    records = [decision(1000.0 + number, number) for number in range(5)]
    path = log_of(tmp_path, records, end='{"at": 10')  # a line that was cut
    found = read_arrivals(path)
    assert len(found.times_s) == 10
    np.testing.assert_allclose(found.times_s[:4], [999.7, 999.9, 1000.7, 1000.9])
    assert found.servers == {"s0", "s1"}
    log_of(tmp_path, records, name="decisions-b.jsonl.1")
    assert len(read_arrivals(tmp_path).times_s) == 20
    times = tmp_path / "times.txt"
    times.write_text("0.5\n1.5\n1.75\n")
    assert read_arrivals(times).times_s.tolist() == [0.5, 1.5, 1.75]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ("0\n1.7e9\n1700000001\n", r"nothing came from 0\.000000 to 1700000000\.000000 s"),
        ("-1.7e308\n1.7e308\n", r"give seconds of at most 1e\+10"),
        ("1.7e12\n1700000000001\n", r"give seconds of at most 1e\+10"),
    ],
)
def test_timestamps_that_can_not_be_replayed_are_refused(times: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text(times)
    with pytest.raises(ConfigError, match=said):
        read_arrivals(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("at", float("nan")), ("at", float("inf")), ("outcome", {"error": None, "requests": []}), ("at", 10**400)],
)
def test_a_decision_that_makes_no_sense_is_told_with_its_line(key: str, value: object, tmp_path: Path) -> None:
    path = log_of(tmp_path, [decision(1000.0, 0), {**decision(1001.0, 1), key: value}, decision(1002.0, 2)])
    with pytest.raises(ConfigError, match=r"decisions-a\.jsonl, line 2: no decision"):
        read_arrivals(path)


def test_a_line_that_is_nested_without_end_is_no_decision(tmp_path: Path) -> None:
    path = log_of(tmp_path, [decision(1000.0 + n, n) for n in range(3)], end="[" * 200_000)
    assert len(read_arrivals(path).times_s) == 6


def test_what_was_sent_again_arrived_once_and_what_was_rejected_arrived(tmp_path: Path) -> None:
    errors = (None, "socket closed", "rejected")
    found = read_arrivals(log_of(tmp_path, [decision(1000.0 + n, n, error=error) for n, error in enumerate(errors)]))
    np.testing.assert_allclose(found.times_s, [999.7, 999.9, 1001.7])


def test_what_was_refused_arrived_too_also_where_nothing_was_decided(tmp_path: Path) -> None:
    shed = [
        {"shed": "full", "at": 1000.0 + n, "family": "fg"[n % 2], "items": 1, "age_s": 0.25, "deadline_s": 0.1}
        for n in range(4)
    ]
    assert read_arrivals(log_of(tmp_path, shed)).times_s.tolist() == [999.75, 1000.75, 1001.75, 1002.75]
    both = read_arrivals(log_of(tmp_path, [*shed, decision(1000.0, 1)], "b.jsonl"), family="f")
    np.testing.assert_allclose(both.times_s, [999.7, 999.75, 999.9, 1001.75])
    with pytest.raises(ConfigError, match=r"line 2: no decision .*not finite"):
        read_arrivals(log_of(tmp_path, [shed[0], {**shed[1], "age_s": math.nan}], "c.jsonl"))


def test_a_log_of_two_families_is_whole_for_each_of_them(tmp_path: Path) -> None:
    path = log_of(tmp_path, [decision(1000.0 + n, n, family="fg"[n % 3 == 0]) for n in range(30)])
    assert len(read_arrivals(path, family="f").times_s) == 40
    assert len(read_arrivals(path, family="g").times_s) == 20


@pytest.mark.virtual_time
@pytest.mark.parametrize("policy", ["jsq", "lert:slack"])
async def test_every_request_of_a_router_is_in_its_log_whenever_its_policy_binds(tmp_path: Path, policy: str) -> None:
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    servers = {"a": FakeServer(), "b": FakeServer(per_item_s=0.01)}
    gaps_s = np.random.default_rng(1).exponential(0.002, 200)
    async with routed(servers, policy=policy, decision_log=settings) as router, asyncio.TaskGroup() as tasks:
        for gap_s in gaps_s:
            await asyncio.sleep(gap_s)
            tasks.create_task(router.infer(item(0), deadline_ms=10_000))
    assert len(read_arrivals(tmp_path).times_s) == 200


def access(ended_s: float, model: str = "fashion", **fields: object) -> dict[str, object]:
    """A line of a gateway's access log, of a request that took a quarter of a second."""
    line = {"unix_s": ended_s, "level": "info", "message": "request", "model": model, "latency_s": 0.25, **fields}
    return {key: value for key, value in line.items() if value is not None}


def test_an_access_log_says_when_requests_came_whatever_became_of_them(tmp_path: Path) -> None:
    other = {"unix_s": 1.0, "level": "info", "message": "serving"}
    forbidden = access(1003.0, outcome="forbidden", latency_s=None)
    lines = [other, access(1001.5), access(1001.0, outcome="late"), forbidden]
    for name in ("gateway.log", "gateway.jsonl"):
        found = read_arrivals(log_of(tmp_path, lines, name, end="Traceback\n"))
        assert (found.times_s.tolist(), found.servers) == ([1000.75, 1001.25], frozenset())
    both = log_of(tmp_path, [*lines, access(1002.0, "digits"), access(1003.0, "digits")], "both.log")
    assert read_arrivals(both, family="digits").times_s.tolist() == [1001.75, 1002.75]
    with pytest.raises(ConfigError, match="holds requests of digits, fashion; name one with --family"):
        read_arrivals(both)
    with pytest.raises(ConfigError, match=r"has 0 requests.*access_log: true"):
        read_arrivals(log_of(tmp_path, [other], "none.log"))
    with pytest.raises(ConfigError, match="line 1: no request"):
        read_arrivals(log_of(tmp_path, [access(1.0, unix_s="x"), access(2.0)], "bad.log"))


def test_a_log_that_lacks_decisions_or_is_none_is_refused(tmp_path: Path) -> None:
    few = log_of(tmp_path, [decision(float(number), number) for number in range(0, 500, 100)])
    with pytest.raises(ConfigError, match=r"holds 1% of the decisions.*sample_ratio: 1"):
        read_arrivals(few)
    with pytest.raises(ConfigError, match="line 1: no decision"):
        read_arrivals(log_of(tmp_path, [{"turn": 1}, {}], "x.jsonl"))
    with pytest.raises(ConfigError, match="line 1: no JSON"):
        read_arrivals(log_of(tmp_path, [], "y.jsonl", end="}\n{}\n"))
    with pytest.raises(ConfigError, match="has 0 arrivals"):
        read_arrivals(log_of(tmp_path, [], "z.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no decisions-\*.jsonl"):
        read_arrivals(tmp_path / "empty")


def test_the_log_of_another_fleet_is_named_as_such(tmp_path: Path) -> None:
    own = [decision(float(n), n) for n in range(5)]
    check_fleet(read_arrivals(log_of(tmp_path, own)), fleet())
    unknown = [decision(float(n), n, servers=("s0", "elsewhere")) for n in range(5)]
    with pytest.raises(ConfigError, match="another fleet: it decided about elsewhere, the profile knows s0, s1"):
        check_fleet(read_arrivals(log_of(tmp_path, unknown)), fleet())
    check_fleet(recorded(10), fleet())  # timestamps are of any fleet


def test_a_recorded_rate_stays_what_it_is_where_families_share_the_servers() -> None:
    families = {"plates": {"share": 1.0, "min_accuracy": 0.85}, "signs": {"share": 9.0}}
    given = Task(scenario(requests=500, families=families), tuple(two_servers("plates", "signs")), NO_PREFERENCE)
    traffic = Traffic(given, recorded(count=30_000, rate_rps=200.0))
    rate_rps = draw_trace(traffic.task.settings, traffic.task.servers, 0).rate_rps
    assert (rate_rps, traffic.rate_rps) == (pytest.approx(200.0, rel=0.05), pytest.approx(200.0, rel=0.05))
