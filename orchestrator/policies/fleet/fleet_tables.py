"""A fleet in the tables on which decisions are made, kept up to date server by server.

A router that has one puts in what has changed (a batch sent or answered, a server's health, a new width) and then
decides at once; nothing is gathered anew for a decision. The tables are made anew only when they get too small.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from orchestrator.decision import Candidate, Decision
from orchestrator.policies.fleet.qualities import relative_qualities
from orchestrator.policies.fleet.row_values import read_candidate, read_decision, write_query
from orchestrator.policies.protocol import RowPolicy, Situation
from orchestrator.policies.queue_rules import LeastTimes, is_taken, least_answer_s, least_times, only_width
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import build_rows
from orchestrator.policies.tables.compiled import Column, Table, compiled, new_column, new_spread_table, new_table
from orchestrator.policies.tables.layout import Fleet, QueueHead, Scratch
from orchestrator.policies.tables.memory import Memory
from orchestrator.policies.tables.occupancy import BUSY_FIELDS
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.profile.margin import Margin, margin_ratio
from orchestrator.snapshot import DeviceState, ModelName, QueueState, ServedModel, ServerName, ServerState, Width

_SPARE_BATCHES = 2  # beyond a server's limit, for batches that were sent before the limit was lowered


class FleetTables:
    """What is known of the servers of one family's fleet; changed by ``put`` and ``remove`` alone.

    Attributes:
        names: of the servers, by index.
        widths: of the family, ascending; each is a column.
        fleet: the tables as they are now; whoever writes to them, as a simulator does, keeps them right.
        rows: those of the last decision, of which the first are the candidates.
        scratch: room for decisions on these tables.
        memory: what policies remember that decide here; for ``RowPolicy.observe``.
    """

    def __init__(
        self,
        servers: Sequence[ServerState] = (),
        latency: LatencyTable | None = None,
        energy: EnergyTable | None = None,
    ) -> None:
        self._states = {s.name: s for s in servers}
        self._latency = latency or LatencyTable()
        self._energy = energy or EnergyTable()
        self._query = new_column(col.QUERY_FIELDS)
        self.memory = Memory()
        self._layout()

    def put(self, state: ServerState, latency: LatencyTable, energy: EnergyTable | None = None) -> None:
        """Take over all that is known of a server, which may be new."""
        known = self._states.get(state.name)
        self._states[state.name] = state
        self._latency, self._energy = latency, energy or self._energy
        if known is None or not self._fits(state):
            self._layout()
            return
        server = self._index[state.name]
        if state.models is not known.models or state.other_models is not known.other_models:
            self._write_models(server, state)
        self._write_lines(server, state)
        self._write_load(server, state)

    def put_lines(self, state: ServerState, latency: LatencyTable, models: Sequence[ServedModel]) -> None:
        """Take over the times of some models of a known server, all of which were observed."""
        self._latency = latency
        server = self._index[state.name]
        table, first, columns = self.fleet.models, server * self.fleet.columns, self._column_of[server]
        for model in models:
            at = first + columns[model.name]
            table[col.PER_ITEM_S][at], table[col.FIXED_S][at] = latency.line(state.name, model, ())
            self._write_margin(at, latency.margin(state.name, model.name))

    def put_load(self, state: ServerState) -> None:
        """Take over what a known server holds, its limits and its health; not its models, times and joules."""
        self._states[state.name] = state
        if self._fits(state):
            self._write_load(self._index[state.name], state)
        else:
            self._layout()

    def remove(self, name: ServerName) -> None:
        """Forget a server."""
        del self._states[name]
        self._layout()

    def candidates(
        self,
        situation: Situation,
        *,
        avoided: Collection[ServerName] = (),
        without: Collection[tuple[ServerName, ModelName]] = (),
    ) -> tuple[Candidate, ...]:
        """Return a candidate for each healthy server and allowed width, ordered by server name, then width.

        Servers to avoid are used only where there are no others; models of ``without`` are taken as not served.
        """
        served = self.fleet.models[col.SERVED]
        places = [place for name, model in without if (place := self._served_at(name, model)) is not None]
        served[places] = 0
        try:
            return self.read_candidates(self.fill(situation, avoided))
        finally:
            served[places] = 1

    def _served_at(self, name: ServerName, model: ModelName) -> int | None:
        """Return where a width of a server stands in the table of models; None when it may not be sent anything."""
        server = self._index.get(name)
        if server is None:
            return None
        column = self._column_of[server].get(model, self.fleet.widths)
        return server * self.fleet.columns + column if column < self.fleet.widths else None

    def least_times(self, count: int) -> LeastTimes:
        """Return what the first ``count`` rows show of what waits."""
        return least_times(self.rows, count, self._query)

    def least_answer_s(self, count: int, items: int, longest_s: float, is_beyond_help: bool) -> float:
        """Return when a head of so many items is answered at the soonest by the first ``count`` rows."""
        return float(least_answer_s(self.rows, count, self._query, float(items), longest_s, is_beyond_help))

    def soonest_s(self, count: int) -> Mapping[ServerName, float]:
        """Return in how long each server of the first ``count`` rows is expected to answer the head alone, seconds."""
        soonest_s: dict[ServerName, float] = {}
        only = only_width(self.rows, count, self._query)
        columns = self.rows[[col.ROW_SERVER, col.ROW_HEAD_COMPLETION_S], :count].T.tolist()
        for row, (server, completion_s) in enumerate(columns):
            if is_taken(row, only, self.rows):
                name = self.names[int(server)]
                soonest_s[name] = min(completion_s, soonest_s.get(name, math.inf))
        return soonest_s

    def read_candidates(self, count: int) -> tuple[Candidate, ...]:
        """Return the first ``count`` rows as values."""
        rows, names = self.rows, self.names
        return tuple([read_candidate(rows, row, names) for row in range(count)])

    def choose(self, policy: RowPolicy, count: int) -> tuple[Decision, int]:
        """Return what a policy decides about the first ``count`` rows, and the most items of what it chose.

        Raises:
            IndexError: when it chose a row that there is not.
        """
        choice = policy.choose_row(self.memory.table(policy.name), self.rows, count, self._query)
        return read_decision(choice, self.rows, count, self.names)

    def fill(self, situation: Situation, avoided: Collection[ServerName] = ()) -> int:
        """Write the rows for a decision, and what waits; return how many there are."""
        write_query(self._query, situation)
        head = self._query, self._allowed(situation.queue), self._avoided(avoided)
        return _build_flat(*self.fleet, *head, self.rows, *self.scratch)

    def _allowed(self, queue: QueueState) -> Column:
        found = self._allowed_by.get(queue.allowed_widths)
        if found is None:
            found = self._allowed_by[queue.allowed_widths] = new_column(len(self.widths))
            for column, width in enumerate(self.widths):
                found[column] = width in queue.allowed_widths
        return found

    def _avoided(self, names: Collection[ServerName]) -> Column:
        if not names:
            return self._none_avoided
        found = new_column(len(self.names))
        for name in names:
            if name in self._index:
                found[self._index[name]] = 1
        return found

    def _layout(self) -> None:
        """Make tables for the servers that there are now."""
        states = [self._states[name] for name in sorted(self._states)]
        self.names: Sequence[ServerName] = [s.name for s in states]
        self._index = {name: index for index, name in enumerate(self.names)}
        self.widths: Sequence[Width] = sorted({m.width for s in states for m in s.models})
        self._qualities = relative_qualities(m.accuracy for s in states for m in s.models)
        self.memory.arrange(self.names, self.widths)
        count, widths = len(states), len(self.widths)
        columns = widths + max((len(s.other_models) for s in states), default=0)
        depth = _SPARE_BATCHES + max((max(len(s.in_flight), s.batch_limit) for s in states), default=0)
        self._column_of: list[dict[ModelName, int]] = [{} for _ in states]
        self._devices: list[DeviceState | None] = [None for _ in states]
        self.fleet = Fleet(
            new_spread_table(col.SERVER_FIELDS, count),
            new_spread_table(col.MODEL_FIELDS, count * columns),
            new_spread_table(col.BATCH_FIELDS, count * depth),
            count,
            columns,
            widths,
            depth,
        )
        self.rows = new_spread_table(col.ROW_FIELDS, count * widths)
        order = new_table(max(1, widths), count)
        order[:, :count] = np.arange(count)
        self.scratch = Scratch(order, new_table(BUSY_FIELDS, depth), new_column(count * widths), new_column(count))
        self._none_avoided = new_column(count)
        self._allowed_by: dict[tuple[Width, ...], Column] = {}
        for server, state in enumerate(states):
            self._write_models(server, state)
            self._write_lines(server, state)
            self._write_load(server, state)

    def _fits(self, state: ServerState) -> bool:
        columns, widths, depth = self.fleet[4:]
        return (
            len(state.in_flight) <= depth
            and len(state.other_models) <= columns - widths
            and all(m.width in self.widths and m.accuracy in self._qualities for m in state.models)
        )

    def _write_models(self, server: int, state: ServerState) -> None:
        models, first = self.fleet.models, server * self.fleet.columns
        own = models[:, first : first + self.fleet.columns]
        own[:] = 0
        own[col.MAX_BATCH] = own[col.INSTANCES] = 1
        own[col.MARGIN] = math.nan
        columns = self._column_of[server] = {}
        for model in state.models:
            columns[model.name] = self.widths.index(model.width)
            models[col.SERVED][first + columns[model.name]] = 1
        for column, model in enumerate(state.other_models, start=self.fleet.widths):
            columns[model.name] = column
        for model in (*state.models, *state.other_models):
            at = first + columns[model.name]
            models[col.MODEL_WIDTH][at] = model.width
            models[col.ACCURACY][at] = self._qualities.get(model.accuracy, model.accuracy)
            models[col.MAX_BATCH][at] = model.max_batch_size
            models[col.INSTANCES][at] = model.instances

    def _write_lines(self, server: int, state: ServerState) -> None:
        models, first, columns = self.fleet.models, server * self.fleet.columns, self._column_of[server]
        for siblings in (state.models, state.other_models):
            for model in siblings:
                at = first + columns[model.name]
                models[col.PER_ITEM_S][at], models[col.FIXED_S][at] = self._latency.line(state.name, model, siblings)
                self._write_margin(at, self._latency.margin(state.name, model.name))
                joules = self._energy.line(state.name, model.name)
                models[col.PER_ITEM_J][at] = math.nan if joules is None else joules.per_item_j
                models[col.FIXED_J][at] = math.nan if joules is None else joules.fixed_j

    def _write_margin(self, at: int, margin: Margin | None) -> None:
        models = self.fleet.models
        models[col.MARGIN][at] = math.nan if margin is None else margin_ratio(margin)
        models[col.MARGIN_SEEN_S][at] = 0.0 if margin is None else margin.observed_s

    def _write_load(self, server: int, state: ServerState) -> None:
        (servers, _, batches, _, _, _, depth), columns = self.fleet, self._column_of[server]
        servers[col.HEALTHY][server] = state.healthy
        servers[col.BATCH_COUNT][server] = len(state.in_flight)
        servers[col.BATCH_LIMIT][server] = state.batch_limit
        servers[col.WAITING_LIMIT][server] = state.waiting_limit
        servers[col.LAST_ANSWER_S][server] = _or_nan(state.last_answer_s)
        if state.device is not self._devices[server]:
            self._devices[server] = device = state.device
            servers[col.UTILISATION][server] = _or_nan(device.utilisation_ratio)
            servers[col.MEMORY][server] = _or_nan(device.memory_ratio)
            servers[col.POWER][server] = _or_nan(device.power_ratio)
        held = 0
        for at, batch in enumerate(state.in_flight, start=server * depth):
            batches[col.COLUMN][at] = columns.get(batch.model, -1)
            batches[col.ITEMS][at] = batch.items
            batches[col.SENT_S][at] = batch.sent_s
            batches[col.BEGAN_S][at] = _or_nan(batch.began_s)
            held += batch.items
        was_bound = servers[col.BOUND_ITEMS][server] > 0
        bound = sum([items for _, items in state.bound_items]) if state.bound_items else 0
        servers[col.BOUND_ITEMS][server] = bound
        servers[col.HELD_ITEMS][server] = held + bound
        if was_bound or bound:
            self._write_bound(server, state.bound_items)

    def _write_bound(self, server: int, bound_items: Sequence[tuple[ModelName, int]]) -> None:
        first, columns = server * self.fleet.columns, self._column_of[server]
        bound = self.fleet.models[col.MODEL_BOUND_ITEMS]
        bound[first : first + self.fleet.columns] = 0
        for name, items in bound_items:
            if name in columns:
                bound[first + columns[name]] += items


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


@compiled
def _build_flat(
    servers: Table,
    models: Table,
    batches: Table,
    server_count: int,
    columns: int,
    widths: int,
    depth: int,
    query: Column,
    allowed: Column,
    avoided: Column,
    rows: Table,
    order: Table,
    busy: Table,
    row_of: Column,
    hull: Column,
) -> int:
    """Call ``build_rows`` with arguments one by one, which a compiled function receives faster than tuples of them."""
    fleet = Fleet(servers, models, batches, server_count, columns, widths, depth)
    return build_rows(fleet, QueueHead(query, allowed, avoided), rows, Scratch(order, busy, row_of, hull))
