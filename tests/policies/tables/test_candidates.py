from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import export.width
from orchestrator.config.families import FamilySettings
from orchestrator.decision import Candidate
from orchestrator.profile.fit import LatencyFit, LatencyTable
from orchestrator.snapshot import BatchInFlight, ModelName, QueueState, ServerName, ServerState, Width
from tests.fakes.servers import served_model
from tests.policies.fleets import Occupancy, build_candidates

WIDTHS = tuple(Width(w) for w in (25, 50, 75, 100))
A, B = ServerName("a"), ServerName("b")


def model(width: int) -> ModelName:
    return served_model(width).name


def line(slope_s: float, fixed_s: float) -> LatencyFit:
    fit = LatencyFit()
    for items in (1, 8):
        fit = fit.observe(items, slope_s * items + fixed_s)
    return fit


def server(name: str = "a", widths: tuple[int, ...] = (100,), **state: object) -> ServerState:
    return ServerState(ServerName(name), tuple(served_model(w) for w in widths), **state)  # type: ignore[arg-type]


def backlog_s(held: ServerState, latency: LatencyTable, *, now_s: float) -> float:
    return Occupancy(held, latency, now_s=now_s).backlog_s


def queue(items: int = 1, *, head: int = 1, slack_s: float = 10.0, tail_s: float | None = None) -> QueueState:
    return QueueState(items, head, slack_s, slack_s if tail_s is None else tail_s, WIDTHS)


def build(
    servers: list[ServerState], q: QueueState, latency: LatencyTable, margin: float = 1.0
) -> dict[tuple[str, int], Candidate]:
    found = build_candidates(servers, q, latency, now_s=0.0, slack_margin=margin)
    return {(c.server, c.width): c for c in found}


@pytest.mark.parametrize("less", [0.001, 0.0])
def test_a_width_that_is_no_more_accurate_than_a_narrower_one_is_none_unless_it_is_asked_for(less: float) -> None:
    models = [served_model(width) for width in (25, 50, 75, 100)]
    models[2] = dataclasses.replace(models[2], accuracy=models[1].accuracy - less)
    one = ServerState(A, tuple(models))
    latency = LatencyTable({})
    assert {width for _, width in build([one], queue(), latency)} == {25, 50, 100}
    asked = dataclasses.replace(queue(), allowed_widths=(Width(75),))
    assert {width for _, width in build([one], asked, latency)} == {75}
    without = ServerState(A, (models[0], models[2]))  # the narrower one that is as good is not served here, or is dead
    assert {width for _, width in build([without], queue(), latency)} == {25, 75}


@given(st.tuples(*[st.sampled_from([0.5, 0.6, 0.7, 0.8])] * 4))
def test_decisions_import_and_fleet_file_agree_on_which_widths_are_useless(qualities: tuple[float, ...]) -> None:
    quality = dict(zip(map(int, WIDTHS), qualities, strict=True))
    variants = [{"width": width, "model": f"m{width}", "quality": value} for width, value in quality.items()]
    useless = {variant.width for variant in FamilySettings.model_validate({"name": "a", "variants": variants}).useless}
    assert useless == set(
        export.width.useless_widths({export.width.Width(width): value for width, value in quality.items()})
    )
    models = tuple(dataclasses.replace(served_model(width), accuracy=value) for width, value in quality.items())
    rows = build([ServerState(A, models)], queue(), LatencyTable({}))
    assert {int(width) for _, width in rows} == quality.keys() - useless


def test_expected_times_of_an_idle_server() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.002)})
    candidate = build([server()], queue(5), latency)["a", 100]
    assert candidate.items == 5
    assert candidate.service_s == pytest.approx(0.052)
    assert candidate.completion_s == pytest.approx(0.052)
    assert candidate.head_completion_s == pytest.approx(0.012)
    assert candidate.drain_s == pytest.approx(0.052)


def test_batches_in_flight_are_waited_for_and_the_first_has_already_run() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.0)})
    busy = server(
        in_flight=(BatchInFlight(model(100), 4, sent_s=-0.5), BatchInFlight(model(100), 2, sent_s=-0.4)),
        last_answer_s=-0.03,
    )
    assert backlog_s(busy, latency, now_s=0.0) == pytest.approx(0.04 - 0.03 + 0.02)


def test_a_server_that_is_overdue_looks_worse_the_longer_it_is() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.0)})
    hanging = server(in_flight=(BatchInFlight(model(100), 4, sent_s=0.0),))
    waits = [backlog_s(hanging, latency, now_s=now_s) for now_s in (0.0, 0.04, 0.5, 10.0)]
    assert waits == pytest.approx([0.04, 0.0, 0.46, 9.96])


def test_load_of_another_family_counts_with_its_own_times() -> None:
    other = served_model(100, family="other")
    latency = LatencyTable({(A, model(100)): line(0.001, 0.0), (A, other.name): line(0.5, 0.0)})
    busy = server(other_models=(other,), in_flight=(BatchInFlight(other.name, 2, sent_s=0.0),))
    assert backlog_s(busy, latency, now_s=0.0) == pytest.approx(1.0)


def test_a_server_whose_model_is_less_accurate_than_asked_is_no_candidate() -> None:
    old = ServerState(B, (dataclasses.replace(served_model(100), accuracy=0.90),))
    q = dataclasses.replace(queue(), min_accuracy=0.92)
    assert set(build([server(), old], q, LatencyTable())) == {("a", 100)}


def test_items_bound_to_a_server_count_in_full_batches() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.002)})
    assert backlog_s(server(bound_items=((model(100), 33),)), latency, now_s=0.0) == pytest.approx(0.334)


def test_a_batch_is_cut_so_that_the_head_is_in_time_unless_it_is_lost_anyway() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.002)})
    assert build([server()], queue(20, slack_s=0.1), latency)["a", 100].items == 9
    assert build([server()], queue(20, slack_s=0.1), latency, margin=2.0)["a", 100].items == 4
    assert build([server()], queue(20, slack_s=0.005), latency)["a", 100].items == 20


def test_a_head_that_its_margin_makes_late_is_put_at_no_more_risk_by_those_that_go_with_it() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.002)})
    # Alone it is expected after 12 ms, and after 96 with the margin; with seven others after 82, of the 90 that it has.
    assert build([server()], queue(20, slack_s=0.09), latency, margin=8.0)["a", 100].items == 8


def test_a_slow_server_takes_only_what_it_answers_before_the_fast_one_would() -> None:
    latency = LatencyTable({(A, model(100)): line(0.010, 0.0), (B, model(100)): line(0.110, 0.0)})
    busy = server("a", in_flight=(BatchInFlight(model(100), 32, sent_s=0.0),))
    found = build([busy, server("b")], queue(100), latency)
    assert found["b", 100].items == 3  # 0.33 s, and the fast one would need 0.32 + 0.03 s
    assert found["a", 100].items == 32


def test_a_width_never_seen_is_guessed_from_its_sibling_by_work() -> None:
    latency = LatencyTable({(A, model(100)): line(0.045, 0.002)})
    candidate = build([server(widths=(25, 100))], queue(), latency)["a", 25]
    assert candidate.service_s == pytest.approx(0.003 + 0.002)


def test_a_server_never_seen_looks_instant_so_that_it_is_tried() -> None:
    assert build([server()], queue(), LatencyTable())["a", 100].completion_s == 0


def test_unhealthy_servers_other_widths_and_too_small_models_are_no_candidates() -> None:
    small = ServerState(B, (served_model(100, max_batch_size=2),))
    q = QueueState(5, 3, 1.0, 1.0, (Width(100),))
    assert set(build([server(healthy=False), small, server("c", (25, 100))], q, LatencyTable())) == {("c", 100)}


def test_a_full_server_is_a_candidate_without_room() -> None:
    full = server(in_flight=(BatchInFlight(model(100), 1, 0.0),) * 2)
    assert not build([full], queue(), LatencyTable())["a", 100].has_room


@pytest.mark.parametrize(("item_s", "has_room"), [(0.003, True), (0.005, False)])
def test_where_what_a_server_has_takes_long_one_batch_waits(item_s: float, has_room: bool) -> None:
    busy = server(in_flight=(BatchInFlight(model(100), 2, 0.0),) * 2, batch_limit=4, waiting_limit=3)
    latency = LatencyTable({(A, model(100)): line(item_s, 0.0)})
    assert build([busy], queue(), latency)["a", 100].has_room == has_room  # 12 and 20 ms


times = st.floats(1e-6, 1.0)
server_states = st.lists(
    st.builds(
        lambda index, batches, bound, widths: server(
            f"s{index}",
            tuple(sorted(widths)),
            in_flight=tuple(BatchInFlight(model(w), n, -0.01) for w, n in batches),
            bound_items=tuple((model(w), n) for w, n in bound),
        ),
        st.integers(0, 50),
        st.lists(st.tuples(st.sampled_from(WIDTHS), st.integers(1, 32)), max_size=2),
        st.lists(st.tuples(st.sampled_from(WIDTHS), st.integers(1, 80)), max_size=2),
        st.sets(st.sampled_from(WIDTHS), min_size=1),
    ),
    max_size=6,
    unique_by=lambda s: s.name,
)
queues = st.builds(
    lambda head, more, slack_s, tail_s: queue(head + more, head=head, slack_s=slack_s, tail_s=slack_s + tail_s),
    st.integers(1, 32),
    st.integers(0, 500),
    st.floats(-1, 1),
    st.floats(0, 1),
)


@st.composite
def latency_tables(draw: st.DrawFn) -> LatencyTable:
    pairs = draw(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(WIDTHS)), max_size=12))
    return LatencyTable({(ServerName(f"s{i}"), model(w)): line(draw(times), draw(times)) for i, w in pairs})


@given(server_states, queues, latency_tables(), st.randoms())
def test_candidates_are_sound_whatever_the_fleet(
    servers: list[ServerState], q: QueueState, latency: LatencyTable, shuffler: random.Random
) -> None:
    found = build_candidates(servers, q, latency, now_s=0.0, slack_margin=1.25)
    assert [(c.server, c.width) for c in found] == sorted((s.name, m.width) for s in servers for m in s.models)
    for c in found:
        assert q.head_items <= c.items <= min(q.items, 32)
        assert 0 <= c.head_completion_s <= c.completion_s + 1e-9 < math.inf
        assert 0 <= c.drain_s < math.inf
    shuffled = list(servers)
    shuffler.shuffle(shuffled)
    assert build_candidates(shuffled, q, latency, now_s=0.0, slack_margin=1.25) == found


@given(server_states, queues, latency_tables(), st.integers(1, 100))
def test_more_in_the_queue_never_drains_sooner(
    servers: list[ServerState], q: QueueState, latency: LatencyTable, more: int
) -> None:
    longer = QueueState(q.items + more, q.head_items, q.head_deadline_s, q.tail_deadline_s, q.allowed_widths)
    drains = {c.width: c.drain_s for c in build_candidates(servers, q, latency, now_s=0.0, slack_margin=1.0)}
    for c in build_candidates(servers, longer, latency, now_s=0.0, slack_margin=1.0):
        if q.items >= 32:  # below that a larger batch may be so much cheaper an item that it pays
            assert c.drain_s >= drains[c.width] - 1e-9
