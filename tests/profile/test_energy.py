from __future__ import annotations

import pytest

from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable
from orchestrator.snapshot import ModelName, ServerName

A, B = ServerName("a"), ServerName("b")
NARROW, WIDE = ModelName("fashion_w025"), ModelName("fashion_w100")
TABLE = EnergyTable({(A, WIDE): EnergyLine(per_item_j=0.5, fixed_j=2.0, source=EnergySource.RAPL)})


@pytest.mark.parametrize(("items", "energy_j"), [(1, 2.5), (8, 6.0)])
def test_a_batch_costs_its_items_and_a_part_of_its_own(items: int, energy_j: float) -> None:
    line = TABLE.line(A, WIDE)
    assert line is not None
    assert line.of_batch(items) == pytest.approx(energy_j)


@pytest.mark.parametrize(("server", "model"), [(B, WIDE), (A, NARROW)])
def test_what_was_not_measured_is_unknown_and_not_free(server: ServerName, model: ModelName) -> None:
    assert TABLE.line(server, model) is None


def test_joules_say_where_they_come_from() -> None:
    line = TABLE.line(A, WIDE)
    assert line is not None
    assert line.source == "rapl"
