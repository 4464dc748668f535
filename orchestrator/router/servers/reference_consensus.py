"""What a model must answer to the golden probe, learned from the servers themselves; pure.

A server can say that it is ready, answer in time, and answer wrong: a file that was damaged or mixed up, a device that
computes nonsense. Nothing that is measured shows it, so each (server, width) is asked the golden probe now and then,
and its answer is held against those of the other servers that serve the same file (``slim.sha256``):

- What more than half of them answer, and at least two, is the reference.
- Without such a majority an older reference stands: one that a majority gave, or that a server alone gave twice.
- A server alone gives the reference by its first answer after the load.
- Where two that were never asked before contradict each other nobody can say who is wrong; that is logged, and both
  stay.

An answer of the wrong shape, or one that is not finite, is wrong whatever the others say. Models without a hash are
only held against that, because two of them need not be the same network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.snapshot import ServerName

Scores = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReferenceConsensus:
    """The answers of servers that serve one file; each method returns the next state.

    Attributes:
        answers: The last answer of each server; None for one that no network gives.
        reference: The right answer, as far as it is known.
        is_settled: Whether the reference outlives a contradiction.
    """

    answers: Mapping[ServerName, Scores | None] = field(default_factory=dict)
    reference: Scores | None = None
    is_settled: bool = False

    def after_answer(self, server: ServerName, scores: Scores | None, tolerance: float) -> ReferenceConsensus:
        """Return the consensus after a server's answer, with the reference that follows."""
        is_repeated = self.answers.get(server) is not None
        after = replace(self, answers={**self.answers, server: scores})
        return after._settle(tolerance, is_repeated=is_repeated)

    def without(self, servers: Iterable[ServerName]) -> ReferenceConsensus:
        """Return the consensus without servers that no longer serve the file; the reference stays."""
        gone = set(servers)
        return replace(self, answers={name: scores for name, scores in self.answers.items() if name not in gone})

    def wrong(self, tolerance: float) -> frozenset[ServerName]:
        """Return the servers whose last answer is wrong."""
        return frozenset(
            name
            for name, scores in self.answers.items()
            if scores is None or (self.reference is not None and not agree(scores, self.reference, tolerance))
        )

    @property
    def is_disputed(self) -> bool:
        """Whether servers contradict each other and nobody can say who is wrong."""
        return self.reference is None and sum(scores is not None for scores in self.answers.values()) > 1

    def _settle(self, tolerance: float, *, is_repeated: bool) -> ReferenceConsensus:
        answers = [scores for _, scores in sorted(self.answers.items()) if scores is not None]
        if not answers:
            return self
        agreeing = [sum(agree(scores, other, tolerance) for other in answers) for scores in answers]
        most = max(agreeing)
        if most >= 2 and most > len(answers) / 2:
            if self.reference is not None and sum(agree(s, self.reference, tolerance) for s in answers) == most:
                return replace(self, is_settled=True)
            return replace(self, reference=answers[agreeing.index(most)], is_settled=True)
        if self.is_settled:
            return self
        if len(answers) > 1:
            return replace(self, reference=None)
        if self.reference is None or not agree(answers[0], self.reference, tolerance):
            return replace(self, reference=answers[0])
        return replace(self, is_settled=is_repeated)


def agree(scores: Scores, reference: Scores, tolerance: float) -> bool:
    """Return whether no score is off by more than ``tolerance`` times the largest score of the two."""
    if len(scores) != len(reference):
        return False
    largest = max((abs(score) for score in (*scores, *reference)), default=0.0)
    return all(abs(one - other) <= tolerance * largest for one, other in zip(scores, reference, strict=True))


def read_scores(values: Iterable[float], expected: int) -> Scores | None:
    """Return the scores of one item; None when they are not ``expected`` finite numbers."""
    scores = tuple(float(value) for value in values)
    return scores if len(scores) == expected and all(map(math.isfinite, scores)) else None
