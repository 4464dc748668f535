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
    scale = scale_of(SERVED, energy(1.0, 2.0, 3.0, 4.0), energy_weight=2 / 15)  # 3 J on average at the widest
    assert scale.worth(0.928, 3.0) == approx(0.928 - 0.15)
    assert scale.worth(0.905, 1.0) == approx(0.905 - 0.05)


def test_who_sets_the_weight_of_energy_sets_it_for_what_rolls_out_too() -> None:
    scales = [scale_of(SERVED, energy(1.0, 2.0, 3.0, 4.0), energy_weight=part * 2 / 15) for part in (0.0, 0.1)]
    assert [scale.worth(0.928, 3.0) for scale in scales] == [approx(0.928), approx(0.928 - 0.015)]


def test_joules_that_are_unknown_anywhere_count_nowhere() -> None:
    scale = scale_of(SERVED, energy(1.0, 2.0, 3.0), energy_weight=2 / 15)
    assert scale.worth(0.928, 3.0) == scale.worth(0.928, None) == 0.928
    assert scale_of([], EnergyTable(), energy_weight=2 / 15).worth(0.9, None) == 0.9
