from __future__ import annotations

from benchmarks.decisions import make_fleet, measure, render_page
from benchmarks.learned_decision import drawn_policy, measure_network
from orchestrator.decision import Candidate
from orchestrator.policies import FleetTables, Situation, parse_policy
from orchestrator.snapshot import QueueState, Width


def test_every_size_is_timed_over_the_fleet_it_names() -> None:
    timings = [measure(servers, parse_policy("jsq"), repeats=3) for servers in (1, 3)]
    for timing in timings:
        assert 0 < timing.p50_us <= timing.p99_us
        assert timing.put_us > 0
    page = render_page(timings, [], "a machine", "compiled")
    assert "| 3 | `jsq` |" in page
    assert "a machine, compiled" in page


def test_the_fleet_has_a_candidate_for_every_server_and_width_and_unlike_speeds() -> None:
    queue = QueueState(20, 1, 0.1, 0.1, tuple(Width(w) for w in (25, 50, 75, 100)))
    found: tuple[Candidate, ...] = FleetTables(*make_fleet(5)).candidates(Situation(queue, 0.0, 0, (0.0, 0.0), 1.25))
    assert len(found) == 20
    widest = [c.per_item_s for c in found if c.width == 100]
    assert max(widest) / min(widest) > 4.9


def test_a_learned_policy_is_timed_whole_and_its_network_alone() -> None:
    network = measure_network(4, repeats=3)
    assert network.candidates == 16
    assert measure_network(64, repeats=3).candidates == 32
    whole = measure(4, drawn_policy(), repeats=3)
    assert 0 < network.p50_us <= network.p99_us
    page = render_page([whole], [network], "a machine", "compiled")
    assert f"| 4 | 16 | {network.p50_us:.1f} | {network.p99_us:.1f} | 25 | {whole.p99_us:.1f} | 50 |" in page
