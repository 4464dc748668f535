"""Callers who wait for their answers send nothing while all of them do."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.bounds.overview import find_fluid_bounds
from orchestrator.simulation.results import compare_policies
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import on_hosts, patient, run, scenario, servers, single

SERVICE_S = 0.01


def called(callers: int | None, *, load: float = 1.5, requests: int = 400, **sections: object) -> ScenarioSettings:
    given = scenario(requests=requests, load=load, objectives=sections.pop("objectives", patient()), **sections)
    return given.with_workload(callers=callers)


def most_unanswered(simulation: Simulation) -> int:
    """The most requests that had come and were neither answered nor given up; all must be answered."""
    requests = np.asarray(simulation.world.requests)
    assert set(requests[sim.STATUS]) == {sim.ANSWERED}
    # Who comes when an answer does is its caller.
    answered = np.searchsorted(np.sort(requests[sim.ANSWERED_S]), requests[sim.ARRIVED_S], side="right")
    return int((np.arange(len(answered)) + 1 - answered).max())


@pytest.mark.parametrize("callers", [1, 3])
def test_who_waits_sends_when_he_has_his_answer_and_thinks_as_long_as_was_drawn(callers: int) -> None:
    settings, fleet = called(callers), servers(1, single(per_item_s=SERVICE_S))
    drawn_s = draw_trace(settings, fleet, 0).arrived_s
    found = np.asarray(run(settings, fleet).world.requests)
    came_s, done_s = [], []
    for n, gap_s in enumerate(np.diff(drawn_s, prepend=0.0)):
        free_s = done_s[n - callers] if n >= callers else 0.0
        came_s.append(max((came_s[-1] if n else 0.0) + gap_s, free_s))
        done_s.append(max(came_s[-1], done_s[-1] if n else 0.0) + SERVICE_S)
    assert np.allclose(found[sim.ARRIVED_S], came_s)
    assert np.allclose(found[sim.ANSWERED_S], done_s)
    assert came_s[-1] > 1.2 * drawn_s[-1]  # else nobody had to wait


def test_deadlines_are_as_far_from_who_comes_later() -> None:
    settings = called(2, objectives={"deadline_ms": 50})
    found = np.asarray(run(settings, servers(1, single(per_item_s=SERVICE_S))).world.requests)
    assert np.allclose(found[sim.DEADLINE_S] - found[sim.ARRIVED_S], 0.05)
    assert np.allclose(found[sim.DUE_S], found[sim.DEADLINE_S])


def test_many_callers_are_as_good_as_nobody_who_waits() -> None:
    fleet = servers(2, single(sigma=0.3))
    waiting, open_loop = (run(called(callers), fleet).world.requests for callers in (400, None))
    assert np.array_equal(np.asarray(waiting), np.asarray(open_loop), equal_nan=True)


@pytest.mark.parametrize("callers", [1, 5])
def test_no_caller_sends_a_second_request_on_a_busy_host_either(callers: int) -> None:
    fleet = servers(2, single(per_item_s=SERVICE_S, sigma=0.3))
    router = {"request_us": 300, "decision_us": 50, "batch_us": 200, "answer_us": 100}
    host = {"name": "h", "servers": {"s0": 1, "s1": 0.5}, "cores": 1, "router": router}
    found = run(on_hosts(called(callers, load=3.0), fleet, [host]), fleet)
    assert most_unanswered(found) == callers


def test_who_is_refused_sends_again_too() -> None:
    settings = called(8, load=4.0, objectives={"deadline_ms": 25, "shed_late": True})
    found = np.asarray(run(settings, servers(1, single(per_item_s=SERVICE_S))).world.requests)
    assert (found[sim.STATUS] == sim.SHED).sum() > 50
    assert (found[sim.STATUS] == sim.ANSWERED).sum() > 50


def test_policies_of_one_name_are_compared_by_what_they_were_given_as() -> None:
    given, fleet = {"mine": parse_policy("lert"), "other": parse_policy("lert")}, servers(1, single())
    found = compare_policies(called(3, requests=50), fleet, given, seeds=2)
    assert {name: len(results) for name, results in found.by_policy().items()} == {"mine": 2, "other": 2}
    assert list(found.averages()) == ["mine", "other"]


def test_no_bound_is_told_of_callers_who_wait() -> None:
    settings, fleet = called(3, requests=50), servers(1, single())
    found = compare_policies(settings, fleet, {"lert": parse_policy("lert")}, seeds=1)
    assert (found.callers, found.most_accuracy) == (3, None)
    with pytest.raises(ConfigError, match=r"workload\.callers is 3: .*leave callers out"):
        find_fluid_bounds(settings, fleet)
