"""Servers that go to another gateway and come back, as one of several gateways sees them."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import patient, run, scenario, servers, single


def shared(*, requests: int = 2000, load: float = 0.4, **sections: object) -> ScenarioSettings:
    sharing = {"away_every_s": 1.0, "away_s": 0.7}
    return scenario(requests=requests, load=load, sharing=sharing, objectives=patient(), **sections)


def spells(settings: ScenarioSettings, count: int) -> list[tuple[int, float, float]]:
    """Return who was away, from when and until when."""
    schedule = draw_trace(settings, servers(count, single()), 0).schedule
    found, gone = [], {}
    for kind, server, at_s in zip(schedule[sim.KIND], schedule[sim.EVENT_SERVER], schedule[sim.AT_S], strict=True):
        if kind == sim.LEAVES:
            gone[server] = at_s
        elif kind == sim.COMES_BACK:
            found.append((int(server), float(gone.pop(server)), float(at_s)))
    return found


def sent_to(simulation: Simulation, server: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    requests = np.asarray(simulation.world.requests)
    return np.asarray(requests[sim.SENT_S][requests[sim.SERVER] == server])


@pytest.mark.parametrize("policy", ["lert", "jsq", "thrift"])
def test_a_server_that_is_away_is_sent_nothing_and_answers_what_it_has(policy: str) -> None:
    settings = shared()
    simulation = run(settings, servers(3, single(sigma=0.2)), policy)
    assert set(np.asarray(simulation.world.requests[sim.STATUS])) == {sim.ANSWERED}
    assert set(np.asarray(simulation.world.requests[sim.ATTEMPTS])) == {1}  # nothing was lost with a server
    away = spells(settings, 3)
    assert len(away) > 5
    for server, from_s, until_s in away:
        sent_s = sent_to(simulation, server)
        assert not ((sent_s > from_s) & (sent_s < until_s)).any()
    assert all(len(sent_to(simulation, server)) > 100 for server in range(3))


def test_one_server_stays_whatever_was_drawn() -> None:
    for count in (1, 2, 4):
        away = spells(shared(requests=20_000), count)
        assert bool(away) is (count > 1)
        for at_s in {from_s for _, from_s, _ in away}:
            assert sum(from_s <= at_s < until_s for _, from_s, until_s in away) < count


def test_a_server_that_returns_from_a_failure_while_it_is_away_is_not_used_before_it_is_back() -> None:
    faults = {"fail_every_s": 1.0, "down_s": 0.3, "notice_s": 0.0}
    settings = shared(faults=faults)
    simulation = run(settings, servers(3, single()), "lert")
    for server, from_s, until_s in spells(settings, 3):
        sent_s = sent_to(simulation, server)
        assert not ((sent_s > from_s) & (sent_s < until_s)).any()


def test_a_world_without_other_gateways_is_as_it_was() -> None:
    plain = scenario(requests=500, load=0.4, objectives=patient())
    alone, other = (run(given, servers(3, single(sigma=0.2))).world.requests for given in (plain, shared(requests=500)))
    np.testing.assert_array_equal(np.asarray(alone[sim.ARRIVED_S]), np.asarray(other[sim.ARRIVED_S]))
    np.testing.assert_array_equal(np.asarray(alone[sim.NOISE]), np.asarray(other[sim.NOISE]))
