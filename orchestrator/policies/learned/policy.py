"""A learned policy behind the same protocol as every other: ``ppo-slim``, or ``ppo-paper``.

It decides on the rows that every policy decides on, so live and simulated decisions are the same. It notices by itself
when it is shown what it was not trained on: then it raises, and the guard lets the fallback decide (detect and switch,
as in Rotman et al., arXiv 2010.03625, by ranges, which are cheap enough to be looked at in every decision).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.decision import Candidate, Decision, Reason
from orchestrator.errors import ConfigError, UntrustedError
from orchestrator.policies.fleet.row_values import choose_among
from orchestrator.policies.knobs import Knob, parse_knobs
from orchestrator.policies.learned import decide
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import HOLD_ACTION, do_action
from orchestrator.policies.learned.decide import Scorer
from orchestrator.policies.learned.memory import end_hold_at, note_decision, standing_hold
from orchestrator.policies.learned.paper import allowed_choices, do_choices, paper_choices, place_lines
from orchestrator.policies.learned.policy_file import LEARNED_NAMES, PAPER, RULE, PolicyFile, read_policy_file
from orchestrator.policies.protocol import Binding, Outcome, Situation
from orchestrator.policies.registry import RulePolicy
from orchestrator.policies.registry import parse_policy as parse_rule
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT, Choice
from orchestrator.policies.tables.memory import Memory

FITTED: Final = "fitted"
"""Name of the policy that a file holds, whichever kind was promoted (``slimsched train-router``)."""
SHIPPED: Final = Path(__file__).parent / "shipped"
"""Where policies that ship with the project lie, by kind."""
PREFERENCE_KNOBS: Final = tuple(
    Knob(objective, at, 1.0, 0.0, 100.0) for at, objective in enumerate(("accuracy", "latency", "energy"))
)
_SCORED = REASONS.index(Reason.HIGHEST_SCORE)
_WAITS = REASONS.index(Reason.BETTER_SERVER_BUSY)
_REASON_OF: Final = {HOLD: _WAITS, REJECT: REASONS.index(Reason.CANT_BE_IN_TIME)}
_NAMES = (*feat.FEATURE_NAMES, *feat.CONTEXT_NAMES)


class LearnedPolicy:
    """Decides by the weights of a file; binds late. It has the name that it was asked for by, else its kind's.

    Attributes:
        base: the policy that it rests on, which remembers under the name of this one.
        name, slack_margin, is_observing: as of every policy; those of the base.

    Raises:
        ConfigError: when the policy that it rests on is none.
    """

    binding = Binding.LATE

    def __init__(self, file: PolicyFile, *, name: str | None = None) -> None:
        self.file = file
        self.base = replace(decide.parse_base(file.base), name=file.kind if name is None else name)
        self.name, self.slack_margin = self.base.name, self.base.slack_margin
        self.is_observing = self.base.is_observing
        self._scorer = decide.new_scorer(self.base, file)
        self._room = 0

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Decide, see ``Policy``; raises UntrustedError when it is shown what it was not trained on."""
        return choose_among(self, candidates, situation, slack_margin=self.slack_margin)

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """Remember what counts of an answered batch."""
        self.base.observe(memory, outcome)

    def observe_miss(self, memory: Memory, now_s: float) -> None:
        """Remember that a request was refused because of load, or was not answered in time."""
        self.base.observe_miss(memory, now_s)

    @property
    def base_decision(self) -> tuple[int, float, float]:
        """What the base decided when it was asked last: row (or HOLD, REJECT), items, until when to hold."""
        row, items, until_s = decide.view_of(self._scorer.room).base
        return int(row), float(items), float(until_s)

    def scorer(self, rows: int) -> Scorer | None:
        """Return what ``decide_by_scores`` takes, with room for so many candidates; None for ppo-paper."""
        self._make_room(rows)
        return None if self.file.kind == PAPER else self._scorer

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        """Decide on rows, see ``RowPolicy``; raises UntrustedError when it is shown what it was not trained on."""
        self._make_room(count)
        if self.file.kind == PAPER:
            return self._choose_apart(memory, rows, count, query)
        row, items, until_s, unseen = decide.decide_by_scores(*self._scorer, memory, rows, count, query)
        if unseen >= 0:
            self._distrust(unseen)
        return row, items, _REASON_OF.get(row, _SCORED), until_s

    def _make_room(self, rows: int) -> None:
        if rows > self._room:
            self._room = 2 * rows
            self._scorer = self._scorer._replace(room=decide.new_room(self._room))

    def _choose_apart(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        """Decide as ppo-paper does, by three choices taken apart."""
        numbers, view, fleet = self._scorer.numbers, decide.view_of(self._scorer.room), self.file.fleet
        preference = decide.preference_of(numbers)
        decide.choose_base(numbers, memory, rows, count, query, preference, view)
        row, items, until_s = standing_hold(memory, rows, count, query, view.base)
        if row == HOLD:
            return row, items, _WAITS, until_s
        considered, _ = decide.look(memory, rows, count, query, preference, view)
        decide.bound_features(numbers, considered, view)
        widths, ends_at = self._widths_of(rows, count), 0.0
        shown = rows[None], np.array([count]), fleet, widths[None]
        allowed = allowed_choices(*shown)[0]
        server_count, _, _ = fleet
        if allowed[:server_count].any():
            seen = np.concatenate([place_lines(view.lines[None], *shown)[0], view.context], dtype=np.float32)
            order = paper_choices(self.file.weights, seen, fleet, allowed)
            unseen = decide.out_of_distribution_feature(numbers, -1, view)
            if unseen >= 0:
                note_decision(REJECT, math.inf, memory, rows, count, query, view.base)
                self._distrust(unseen)
            row, items, until_s, ends_at = do_choices(
                order, widths, rows, count, view.chosen, considered, query, view.base
            )
        else:  # there is nothing to choose from, and training never asks
            row, items, until_s = do_action(HOLD_ACTION, rows, view.chosen, considered, query, view.base)
        note_decision(row, until_s, memory, rows, count, query, view.base)
        if ends_at > 0:
            end_hold_at(ends_at, memory)
        return row, items, _REASON_OF.get(row, _SCORED), until_s

    def _widths_of(self, rows: Table, count: int) -> NDArray[np.float64]:
        """Return the widths that ppo-paper's choices stand for; raises UntrustedError where they are of another fleet.

        A file that names them is at home where some are not loaded, or servers not there.
        """
        server_count, width_count, _ = self.file.fleet
        known = np.array(self.file.widths, np.float64)
        there = np.unique(rows[col.ROW_WIDTH, :count])
        servers = 1 + int(rows[col.ROW_SERVER, :count].max(initial=-1))
        if len(known):
            is_known = bool(np.isin(there, known).all()) and servers <= server_count
        else:
            known, is_known = there, count == 0 or (servers, len(there)) == (server_count, width_count)
        if not is_known:
            raise UntrustedError(
                f"ppo-paper was trained on {server_count} servers of {width_count} widths and is shown {servers} of "
                f"{len(there)}"
            )
        return known

    def _distrust(self, unseen: int) -> None:
        low, high = float(self.file.low[unseen]), float(self.file.high[unseen])
        raise UntrustedError(
            f"{_NAMES[unseen]} lies outside of {low:.3g} to {high:.3g}, all that {self.name} was trained on"
        )


def is_learned(name: str) -> bool:
    """Return whether a policy of such a name is a learned one, which comes from a file."""
    return name.partition(",")[0].partition(":")[0] in LEARNED_NAMES


def is_fitted(name: str) -> bool:
    """Return whether a policy of such a name is whatever a file holds, rule or learned."""
    return name.partition(":")[0] == FITTED


def has_shipped(kind: str) -> bool:
    """Return whether a learned policy of that kind ships with the project."""
    return (SHIPPED / f"{kind}.npz").is_file()


def _place(kind: str, written: str) -> Path:
    shipped = SHIPPED / f"{kind}-{written}.npz"
    return shipped if Path(written).name == written and shipped.is_file() else Path(written)


def parse_learned(name: str, path: Path | None = None) -> LearnedPolicy:
    """Return the learned policy of that name: ``KIND[:FILE][,accuracy=N][,latency=N][,energy=N]``.

    FILE may be the last part of the name of one that ships: ``ppo-paper:accurate`` is ``ppo-paper-accurate.npz``. The
    numbers weigh the objectives for requests that bring no preference, and are scaled to add up to 1; where none is
    given, the file's weigh. When the name has no file, ``path`` is it, or the one that ships with the project.

    Raises:
        ConfigError: when there is no file, it can't be used, it holds the other kind, or a number is not allowed.
    """
    head, _, knobs = name.partition(",")
    kind, _, written = head.partition(":")
    path = _place(kind, written) if written else (path or SHIPPED / f"{kind}.npz")
    file = read_policy_file(path)
    if file.kind != kind:
        raise ConfigError(f"{path} holds {file.kind}, not {kind}; name that policy, or another file")
    if knobs:
        given = parse_knobs(knobs, PREFERENCE_KNOBS, policy=name)
        total = sum(given.values())
        if total <= 0:
            raise ConfigError(f"policy {name!r}: all weights are 0; give one that is not")
        file = replace(file, preference=(given[0] / total, given[1] / total, given[2] / total))
    return LearnedPolicy(file, name=name)


def parse_fitted(name: str, path: Path | None = None) -> LearnedPolicy | RulePolicy:
    """Return the policy of a file, by the name ``fitted[:FILE]``; a rule has its own name.

    Raises:
        ConfigError: when there is no file, or it can't be used.
    """
    written = name.partition(":")[2]
    if not written and path is None:
        raise ConfigError(
            "policy 'fitted' comes from a file; set router.policy_file, or write fitted:FILE, "
            "as 'slimsched train-router' has made it"
        )
    file = read_policy_file(Path(written) if written else path)  # type: ignore[arg-type]
    return parse_rule(file.base) if file.kind == RULE else LearnedPolicy(file)
