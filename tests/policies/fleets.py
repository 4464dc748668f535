"""Fleets in all their states, for tests of candidates and policies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from hypothesis import strategies as st

from orchestrator.decision import Candidate, Decision
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.protocol import Policy, Situation
from orchestrator.policies.tables.compiled import new_table
from orchestrator.policies.tables.occupancy import BUSY_FIELDS, bound_work_s, free_s, seat_batches
from orchestrator.profile.fit import EnergyTable, LatencyFit, LatencyTable
from orchestrator.profile.margin import Margin
from orchestrator.snapshot import (
    BatchInFlight,
    ModelName,
    QueueState,
    ServedModel,
    ServerName,
    ServerState,
    Width,
    is_within_limits,
    waiting_limit,
)
from tests.fakes.servers import served_model

WIDTHS = tuple(Width(w) for w in (25, 50, 75, 100))


def model_name(width: int) -> ModelName:
    return served_model(width).name


def line(per_item_s: float, fixed_s: float) -> LatencyFit:
    fit = LatencyFit()
    for items in (1, 8):
        fit = fit.observe(items, per_item_s * items + fixed_s)
    return fit


def latencies(**servers: dict[int, tuple[float, float]]) -> LatencyTable:
    """Return a table in which each width of a server takes (seconds an item, seconds a batch)."""
    return LatencyTable(
        {
            (ServerName(name), model_name(w)): line(*times)
            for name, widths in servers.items()
            for w, times in widths.items()
        }
    )


def fleet_server(
    name: str = "a",
    widths: tuple[int, ...] = (100,),
    *,
    instances: dict[int, int] | None = None,
    max_batch_size: int = 32,
    held: tuple[tuple[int, int, float], ...] = (),
    **state: object,
) -> ServerState:
    """Return a server that holds batches of (width, items) sent at a time."""
    models = tuple(
        served_model(w, instances=(instances or {}).get(w, 1), max_batch_size=max_batch_size) for w in sorted(widths)
    )
    batches = tuple(BatchInFlight(model_name(w), items, sent_s) for w, items, sent_s in held)
    return ServerState(ServerName(name), models, in_flight=batches, **state)  # type: ignore[arg-type]


def has_room_for(server: ServerState, model: ServedModel, *, work_s: float = 0.0) -> bool:
    """Return whether a server, whose batches take so long, may be sent a batch of ``model`` now."""
    held, of_model = len(server.in_flight), sum(batch.model == model.name for batch in server.in_flight)
    waiting = waiting_limit(server.waiting_limit, held, work_s)
    limits = (model.instances, server.batch_limit - (server.waiting_limit - waiting), waiting)
    return server.healthy and is_within_limits(held, of_model, *limits)


class Occupancy:
    """What one server has to do, alone, as the tables say."""

    def __init__(self, server: ServerState, latency: LatencyTable, *, now_s: float) -> None:
        fleet = FleetTables([server], latency).fleet
        self._busy = new_table(BUSY_FIELDS, fleet.depth)
        self._count = len(server.in_flight)
        self._last_start_s, self._stretch_ratio, backlog_s = seat_batches(fleet, 0, self._busy, now_s)
        self._bound_s = bound_work_s(fleet, 0)
        self.backlog_s = backlog_s + self._bound_s

    def wait_s(self, model: ServedModel) -> float:
        return free_s(self._busy, self._count, 1 / model.instances, self._last_start_s) + self._bound_s

    def overdue_ratio(self, margin: float) -> float:
        return max(1.0, self._stretch_ratio / margin)


@st.composite
def servers(draw: st.DrawFn, index: int) -> ServerState:
    widths = tuple(draw(st.sets(st.sampled_from(WIDTHS), min_size=1)))
    held = draw(st.lists(st.tuples(st.sampled_from(WIDTHS), st.integers(1, 32), st.floats(-1, 0)), max_size=5))
    instances = {w: draw(st.integers(1, 4)) for w in widths}
    state = fleet_server(
        f"s{index}",
        widths,
        instances=instances,
        max_batch_size=draw(st.sampled_from((1, 4, 8, 32))),
        held=tuple(sorted(held, key=lambda batch: batch[2])),
        batch_limit=draw(st.integers(1, 5)),
        last_answer_s=draw(st.none() | st.floats(-1, 0)),
        bound_items=tuple(
            (model_name(w), n) for w, n in draw(st.dictionaries(st.sampled_from(widths), st.integers(1, 80))).items()
        ),
    )
    return replace(state, healthy=draw(st.integers(0, 9)) > 0)


@st.composite
def fleets(draw: st.DrawFn, most: int = 5) -> tuple[list[ServerState], LatencyTable]:
    """Draw some servers and what is known of their speed; some of it is not known."""
    states = [draw(servers(index)) for index in range(draw(st.integers(0, most)))]
    times = st.floats(1e-6, 0.1)
    margins = st.none() | st.builds(Margin, st.floats(-1, 1), st.floats(0.01, 1), st.floats(-2, 4), st.floats(-30, 0))
    fits = {
        (state.name, model.name): replace(line(draw(times), draw(times)), margin=draw(margins))
        for state in states
        for model in state.models
        if draw(st.integers(0, 4)) > 0
    }
    return states, LatencyTable(fits)


@st.composite
def queues(draw: st.DrawFn) -> QueueState:
    head_items = draw(st.integers(1, 4))
    deadline_s = draw(st.floats(-0.1, 2))
    return QueueState(
        items=head_items + draw(st.integers(0, 100)),
        head_items=head_items,
        head_deadline_s=deadline_s,
        tail_deadline_s=deadline_s + draw(st.floats(0, 1)),
        allowed_widths=tuple(sorted(draw(st.sets(st.sampled_from(WIDTHS), min_size=1)))),
        min_accuracy=draw(st.sampled_from((0.0, 0.91, 0.92))),
    )


def build_candidates(
    servers: Sequence[ServerState],
    queue: QueueState,
    latency: LatencyTable,
    *,
    now_s: float,
    slack_margin: float,
    energy: EnergyTable | None = None,
) -> tuple[Candidate, ...]:
    """Return a candidate for each healthy server and allowed width, ordered by server name, then width.

    The order of ``servers`` does not matter.
    """
    situation = Situation(queue, now_s, turn=0, uniforms=(0.0, 0.0), slack_margin=slack_margin)
    return FleetTables(servers, latency, energy).candidates(situation)


def decide(tables: FleetTables, policy: Policy, situation: Situation, avoided: Collection[ServerName] = ()) -> Decision:
    """Return what a policy decides on a fleet's tables, as a router asks it."""
    return CandidateSet(tables, situation, avoided).decide(policy, is_idle=False, binding=policy.binding)[0]
