from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.protocol import Situation
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyTable
from orchestrator.router.dispatch.dispatcher import KeptTables
from orchestrator.snapshot import BatchInFlight, Family, QueueState, ServerState
from tests.policies.fleets import WIDTHS, build_candidates, fleet_server, fleets, latencies, model_name, queues

FASHION = Family("fashion")
NO_ENERGY = EnergyTable()


def situation(queue: QueueState) -> Situation:
    return Situation(queue, now_s=0.0, turn=0, uniforms=(0.0, 0.0), slack_margin=1.25)


@settings(max_examples=100)
@given(st.lists(st.tuples(fleets(), st.booleans()), min_size=2, max_size=4), queues())
def test_kept_tables_offer_what_new_ones_would_whatever_has_changed(
    steps: list[tuple[tuple[list[ServerState], LatencyTable], bool]], queue: QueueState
) -> None:
    kept = KeptTables()
    models = {state.name: state.models for (states, _), _ in reversed(steps) for state in states}
    for (drawn, latency), keeps_models in steps:
        states = [replace(s, models=models[s.name]) if keeps_models else s for s in drawn]
        found = kept.update(FASHION, states, latency, NO_ENERGY).candidates(situation(queue))
        assert found == build_candidates(states, queue, latency, now_s=0.0, slack_margin=1.25)


def test_a_batch_that_is_found_to_have_begun_earlier_counts_although_it_equals_the_one_before() -> None:
    latency = latencies(a={100: (0.01, 0.0)})
    queue = QueueState(1, 1, 1.0, 1.0, WIDTHS)
    kept = KeptTables()
    held = BatchInFlight(model_name(100), 4, -0.03)
    server = replace(fleet_server("a"), models=tuple(replace(m, instances=2) for m in fleet_server("a").models))
    for began_s in (None, -0.02):
        states = [replace(server, in_flight=(replace(held, began_s=began_s), held))]
        found = kept.update(FASHION, states, latency, NO_ENERGY).candidates(situation(queue))
        assert found == build_candidates(states, queue, latency, now_s=0.0, slack_margin=1.25)


def test_joules_that_become_known_are_offered() -> None:
    latency, queue = latencies(a={100: (0.01, 0.0)}), QueueState(1, 1, 1.0, 1.0, WIDTHS)
    kept, states = KeptTables(), [fleet_server("a")]
    kept.update(FASHION, states, latency, NO_ENERGY)
    energy = EnergyTable({(states[0].name, model_name(100)): EnergyLine(0.5, 0.25, EnergySource.ESTIMATED)})
    found = kept.update(FASHION, states, latency, energy).candidates(situation(queue))
    assert {c.width: c.per_item_j for c in found}[WIDTHS[-1]] == 0.5
