"""The default policy is never far behind the best of all rules, whatever a family's widths and deadlines are.

What counts is the accuracy of answers in time, of all requests; half a point is allowed where widths are four points
apart, and in families whose widths lie further apart as much more.
"""

from __future__ import annotations

import pytest

from orchestrator.config import RouterSettings
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.capacity import fleet_capacity_rps
from orchestrator.simulation.scenario.fleet import SimulatedModel, linear_model
from tests.simulation.worlds import run, scenario, servers

DEFAULT = RouterSettings().policy
USUAL = ((25, 0.0004, 0.92), (50, 0.0008, 0.93), (75, 0.0013, 0.935), (100, 0.002, 0.94))
FAMILIES = {
    "as usual": USUAL,
    "20 points apart": ((25, 0.0004, 0.72), (50, 0.0008, 0.82), (75, 0.0013, 0.88), (100, 0.002, 0.92)),
    "40 points apart": ((25, 0.0004, 0.5), (50, 0.0008, 0.7), (75, 0.0013, 0.8), (100, 0.002, 0.9)),
    "0.1 points apart": ((25, 0.0004, 0.939), (50, 0.0008, 0.9393), (75, 0.0013, 0.9397), (100, 0.002, 0.94)),
    "100 times slower": ((1, 0.00002, 0.6), (10, 0.0002, 0.8), (100, 0.002, 0.95)),
    "one width": ((100, 0.002, 0.94),),
}
LOADS = (0.1, 0.3, 0.6, 0.9, 1.3, 3.0)
"""Of what the fleet answers at its narrowest width."""
SECONDS = 6.0
ALLOWED = 0.005
"""Of a family whose widths are as far apart as the usual ones are."""
LEAST_SPREAD = 0.02


def family(name: str) -> list[SimulatedModel]:
    return [
        linear_model(width, per_item_s=per_item_s, fixed_s=0.0005, accuracy=accuracy, sigma=0.1)
        for width, per_item_s, accuracy in FAMILIES[name]
    ]


@pytest.mark.parametrize("deadline_ms", [2, 25, 100, 30_000])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_nothing_switches_itself_off(name: str, deadline_ms: int) -> None:
    fleet = servers(2, *family(name))
    widths = [model.width for model in fleet[0].models]
    accuracies = [model.accuracy for model in fleet[0].models]
    allowed = ALLOWED * max(1.0, (max(accuracies) - min(accuracies)) / LEAST_SPREAD)
    behind = {}
    for load in LOADS:
        requests = int(min(30_000, load * fleet_capacity_rps(fleet) * SECONDS))
        objectives = {"deadline_ms": deadline_ms, "shed_late": True, "request_timeout_s": 60}
        settings = scenario(requests=requests, load=load, objectives=objectives)
        found = {
            policy: summarise(run(settings, fleet, policy), seed=0, warm_up_ratio=0.3).effective_accuracy
            for policy in (DEFAULT, "lert:slack", "lert:reserve", *(f"lert:{width}" for width in widths))
        }
        behind[load] = max(found.values()) - found[DEFAULT]
    assert max(behind.values()) <= allowed, behind
