"""What an answer in time is worth."""

from __future__ import annotations

from pytest import approx

from orchestrator.profile.fit import EnergyLine, EnergyTable
from orchestrator.router.rollout.worth import scale_of
from orchestrator.snapshot import ServerName
from tests.fakes.servers import served_model

SERVED = [(ServerName(name), served_model(width)) for name in ("a", "b") for width in (25, 100)]


def energy(*joules: float) -> EnergyTable:
    table = EnergyTable()
    for (server, model), each in zip(SERVED, joules, strict=False):
        table = table.start(server, model.name, EnergyLine(each, 0.0, "estimated"))
    return table


def test_the_joules_of_an_item_at_the_best_width_are_worth_15_points() -> None:
    scale = scale_of(SERVED, energy(1.0, 2.0, 3.0, 4.0))  # 3 J on average at the widest
    assert scale.worth(0.928, 3.0) == approx(0.928 - 0.15)
    assert scale.worth(0.905, 1.0) == approx(0.905 - 0.05)


def test_joules_that_are_unknown_anywhere_count_nowhere() -> None:
    scale = scale_of(SERVED, energy(1.0, 2.0, 3.0))
    assert scale.worth(0.928, 3.0) == scale.worth(0.928, None) == 0.928
    assert scale_of([], EnergyTable()).worth(0.9, None) == 0.9
