"""A learned policy behind the same protocol as every other: ``ppo-slim``, or ``ppo-paper``.

It decides on the rows that every policy decides on, so live and simulated decisions are the same. It tells by itself
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
from orchestrator.policies.knobs import Knob, parse_knobs
from orchestrator.policies.learned.actions import HOLD_ACTION, do_action
from orchestrator.policies.learned.arrivals import note_leaving
from orchestrator.policies.learned.decide import (
    Scorer,
    decide_by_scores,
    new_scores,
    new_view,
    observe,
    out_of_distribution_feature,
    parse_base,
)
from orchestrator.policies.learned.features import CONTEXT_NAMES, FEATURE_NAMES, ROWS
from orchestrator.policies.learned.network import pack
from orchestrator.policies.learned.paper import paper_choices, row_of_choices
from orchestrator.policies.learned.policy_file import LEARNED_NAMES, PAPER, PolicyFile, read_policy_file
from orchestrator.policies.memory import Memory
from orchestrator.policies.protocol import Binding, Outcome, Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, new_column
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT
from orchestrator.policies.tables.row_values import choose_among

SHIPPED: Final = Path(__file__).parent / "shipped"
"""Where policies that ship with the project lie, by kind."""
PREFERENCE_KNOBS: Final = tuple(
    Knob(objective, at, 1.0, 0.0, 100.0) for at, objective in enumerate(("accuracy", "latency", "energy"))
)
_SCORED = REASONS.index(Reason.HIGHEST_SCORE)
_WAITS = REASONS.index(Reason.BETTER_SERVER_BUSY)
_NAMES = (*FEATURE_NAMES, *CONTEXT_NAMES)


class LearnedPolicy:
    """Decides by the weights of a file; binds late.

    Args:
        file: the policy.
        name: None: what kind it is.

    Attributes:
        base: the policy that it rests on, which remembers under the name of this one.

    Raises:
        ConfigError: when the policy that it rests on is none.
    """

    def __init__(self, file: PolicyFile, *, name: str | None = None) -> None:
        self.file = file
        self.base = replace(parse_base(file.base), name=file.kind if name is None else name)
        self._preference = _column(file.preference or (math.nan,) * 3)
        self._low, self._high = _column(file.low), _column(file.high)
        self._params = None if file.kind == PAPER else pack(file.weights)
        self._hidden, self._scores = new_scores()
        self._room = 4 * ROWS
        self._view = new_view(self._room)

    @property
    def name(self) -> str:
        """``ppo-slim`` or ``ppo-paper``, or as it was asked for."""
        return self.base.name

    @property
    def binding(self) -> Binding:
        """Late."""
        return Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """See Policy.

        Raises:
            UntrustedError: when it is shown what it was not trained on.
        """
        return choose_among(self, candidates, situation)

    @property
    def slack_margin(self) -> float | None:
        """Of the base."""
        return self.base.slack_margin

    @property
    def is_observing(self) -> bool:
        """See ObservingPolicy."""
        return self.base.is_observing

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """See ObservingPolicy."""
        self.base.observe(memory, outcome)

    def scorer(self, rows: int) -> Scorer | None:
        """Return what ``decide_by_scores`` takes, with room for so many candidates; None for ppo-paper."""
        self._make_room(rows)
        if self._params is None:
            return None
        return Scorer(
            self._preference,
            self._view,
            self._low,
            self._high,
            self._params,
            self.file.strength,
            self._hidden,
            self._scores,
        )

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> tuple[int, float, int, float]:
        """See RowPolicy.

        Raises:
            UntrustedError: when it is shown what it was not trained on.
        """
        self._make_room(count)
        if self._params is None:
            return self._choose_apart(memory, rows, count, query)
        row, items, until_s, out_of_distribution = decide_by_scores(
            self.base.numbers,
            memory,
            rows,
            count,
            query,
            self._preference,
            *self._view,
            self._low,
            self._high,
            self._params,
            self.file.strength,
            self._hidden,
            self._scores,
        )
        if out_of_distribution >= 0:
            self._distrust(out_of_distribution)
        return row, items, _WAITS if row in (HOLD, REJECT) else _SCORED, until_s

    def _make_room(self, rows: int) -> None:
        if rows > self._room:
            self._room = 2 * rows
            self._view = new_view(self._room)

    def _choose_apart(self, memory: Table, rows: Table, count: int, query: Column) -> tuple[int, float, int, float]:
        """Decide as ppo-paper does."""
        view, fleet = self._view, self.file.fleet
        considered, _ = observe(self.base.numbers, memory, rows, count, query, self._preference, view)
        servers = len({rows[col.ROW_SERVER][row] for row in range(count)})
        widths = sorted({rows[col.ROW_WIDTH][row] for row in range(count)})
        if count and (servers, len(widths)) != fleet[:2]:
            raise UntrustedError(
                f"ppo-paper was trained on {fleet[0]} servers of {fleet[1]} widths and is shown {servers} of "
                f"{len(widths)}"
            )
        row, items = -1, 0.0
        if count:
            server, width, batch = paper_choices(
                self.file.weights, observation(view.lines, considered, view.context), fleet
            )
            row, items = row_of_choices(rows, count, query, server, width, batch, _column(widths))
            if (
                out_of_distribution := out_of_distribution_feature(
                    view.lines, HOLD_ACTION, view.context, self._low, self._high
                )
            ) >= 0:
                self._distrust(out_of_distribution)
        until_s = math.inf
        if row < 0:
            row, items, until_s = do_action(HOLD_ACTION, rows, view.chosen, considered, query, view.base)
        note_leaving(row, items, memory)
        return row, items, _WAITS if row < 0 else _SCORED, until_s

    def _distrust(self, out_of_distribution: int) -> None:
        low, high = self._low[out_of_distribution], self._high[out_of_distribution]
        raise UntrustedError(
            f"{_NAMES[out_of_distribution]} lies outside of {low:.3g} to {high:.3g}, all that {self.name} "
            "was trained on"
        )


def observation(lines: Table, considered: int, context: Column) -> NDArray[np.float32]:
    """Return features and context in one vector, float32 [OBSERVATION]; unused lines are 0."""
    found = np.zeros((ROWS, len(FEATURE_NAMES)), np.float32)
    for line in range(considered):
        found[line] = lines[line]
    return np.concatenate([found.reshape(-1), np.asarray(context, np.float32)])


def is_learned(name: str) -> bool:
    """Return whether a policy of such a name comes from a file."""
    return name.partition(",")[0].partition(":")[0] in LEARNED_NAMES


def has_shipped(kind: str) -> bool:
    """Return whether a learned policy of that kind ships with the project."""
    return (SHIPPED / f"{kind}.npz").is_file()


def parse_learned(name: str, path: Path | None = None) -> LearnedPolicy:
    """Return the learned policy of that name: ``KIND[:FILE][,accuracy=N][,latency=N][,energy=N]``.

    The numbers weigh the objectives for requests that bring no preference, and are scaled to add up to 1; where none is
    given, the file's weigh.

    Args:
        name: see above.
        path: of the file when the name has none; None: the one that ships with the project.

    Raises:
        ConfigError: when there is no file, it can't be used, it holds the other kind, or a number is not allowed.
    """
    head, _, knobs = name.partition(",")
    kind, _, written = head.partition(":")
    path = Path(written) if written else (path or SHIPPED / f"{kind}.npz")
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


def _column(values: Sequence[float] | NDArray[np.float32]) -> Column:
    column = new_column(len(values))
    for at, value in enumerate(values):
        column[at] = float(value)
    return column
