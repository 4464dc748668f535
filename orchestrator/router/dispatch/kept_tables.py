"""The tables of each family, kept from one decision to the next and updated before each by what has changed.

What a server holds changes with every batch and costs little to write; what it serves, and what is known of its times
and joules, changes rarely or on one server at a time. Servers and their fits are values, so a change is seen by
comparing, and nobody who changes something has to think of the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.profile.fit import EnergyTable, LatencyFit, LatencyTable
from orchestrator.snapshot import Family, ServerName, ServerState

_Fits = tuple[LatencyFit | None, ...]


@dataclass(slots=True)
class _Kept:
    """The tables of one family, and what they were written from."""

    tables: FleetTables = field(default_factory=FleetTables)
    states: dict[ServerName, ServerState] = field(default_factory=dict)
    fits: dict[ServerName, _Fits] = field(default_factory=dict)
    latency: LatencyTable = field(default_factory=LatencyTable)
    energy: EnergyTable = field(default_factory=EnergyTable)


class KeptTables:
    """The ``FleetTables`` of each family."""

    def __init__(self) -> None:
        self._by_family: defaultdict[Family, _Kept] = defaultdict(_Kept)

    def of(self, family: Family) -> FleetTables:
        """Return the tables of a family as they were at the last decision."""
        return self._by_family[family].tables

    def update(
        self, family: Family, states: Sequence[ServerState], latency: LatencyTable, energy: EnergyTable
    ) -> FleetTables:
        """Return the tables of a family as they are right now, by the states of all servers."""
        kept = self._by_family[family]
        has_learned, is_new_energy = latency is not kept.latency, energy is not kept.energy
        for state in states:
            name, known = state.name, kept.states.get(state.name)
            is_same = known is not None and (
                state.models is known.models and state.other_models is known.other_models and not is_new_energy
            )
            before = fits = kept.fits.get(name, ())
            if has_learned or not is_same:
                fits = tuple([latency.fits.get((name, m.name)) for m in (*state.models, *state.other_models)])
            if not is_same or (fits != before and None in fits):  # what has no fit is guessed from its siblings
                kept.tables.put(state, latency, energy)
            else:
                if fits is not before:
                    models = (*state.models, *state.other_models)
                    learned = [m for m, new, old in zip(models, fits, before, strict=True) if new is not old]
                    kept.tables.put_lines(state, latency, learned)
                if state.in_flight or state != known:  # equal batches may have begun at other times
                    kept.tables.put_load(state)
            kept.states[name], kept.fits[name] = state, fits
        for name in kept.states.keys() - {state.name for state in states} if len(kept.states) > len(states) else ():
            kept.tables.remove(name)
            del kept.states[name], kept.fits[name]
        kept.latency, kept.energy = latency, energy
        return kept.tables
