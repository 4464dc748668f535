"""Sums that never run backwards."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.dataplane.fleet_statistics import MonotonicStatistics
from orchestrator.gateway.protocol.messages import pb
from orchestrator.snapshot import ServerName


def reading(model: str, count: int, *, batch: int = 1) -> object:
    statistics = pb.ModelStatistics(name=model, version="1", inference_count=count, execution_count=count)
    statistics.inference_stats.success.count = count
    statistics.inference_stats.success.ns = 10 * count
    entry = statistics.batch_stats.add(batch_size=batch)
    entry.compute_infer.count = count
    statistics.response_stats["0"].success.count = count
    return statistics


A, B = ServerName("a"), ServerName("b")


def test_servers_and_widths_add_up() -> None:
    fleet = MonotonicStatistics()
    fleet.observe(A, [reading("w025", 3, batch=1), reading("w050", 4, batch=8)])
    fleet.observe(B, [reading("w025", 5, batch=1)])
    total = fleet.total("family", "1", fleet.known())
    assert (total.name, total.inference_count, total.inference_stats.success.ns) == ("family", 12, 120)
    assert {entry.batch_size: entry.compute_infer.count for entry in total.batch_stats} == {1: 8, 8: 4}
    assert total.response_stats["0"].success.count == 12
    assert fleet.total("w025", "1", {("w025", "1")}).inference_count == 8


def test_what_a_reload_set_back_stays_counted() -> None:
    fleet = MonotonicStatistics()
    for count in (10, 12, 3, 0, 7):  # two reloads: 12 → 3, and 3 → 0
        fleet.observe(A, [reading("m", count)])
    assert fleet.total("m", "1", fleet.known()).inference_count == 12 + 3 + 7


def test_what_an_unloaded_model_had_counted_stays() -> None:
    fleet = MonotonicStatistics()
    fleet.observe(A, [reading("m", 10)])
    fleet.observe(A, [])
    assert fleet.total("m", "1", fleet.known()).inference_count == 10


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["m", "n"]), st.integers(0, 50))))
def test_no_sequence_of_readings_makes_a_sum_fall(readings: list[tuple[ServerName, str, int]]) -> None:
    fleet, last = MonotonicStatistics(), 0
    for server, model, count in readings:
        fleet.observe(server, [reading(model, count)])
        total = fleet.total("all", "1", fleet.known())
        assert total.inference_count == total.inference_stats.success.count >= last
        last = total.inference_count
