"""The project's own suites: their scenarios lie in ``scenarios/test``, and ``slimsched evaluate`` runs them.

Each module says what a suite claims and why; whatever is chosen is chosen on validation scenarios (``choices``).
``sections`` is what the suites compare, as JSON; ``page`` and ``pictures`` show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.suites.generalisation import generalisation_claims
from benchmarks.suites.page import show_sections
from benchmarks.suites.paper import paper_claims
from benchmarks.suites.pictures import draw_pictures
from benchmarks.suites.policies import GENERALISED, HEURISTICS, LEARNED_POINTS, OF_PAPER, RANDOM, RANDOM_BATCH
from benchmarks.suites.sections import (
    encode_defaults,
    generalisation_sections,
    paper_sections,
    standard_sections,
)
from benchmarks.suites.standard import standard_claims
from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER
from orchestrator.reporting.blocks import Block
from orchestrator.reporting.claim import Claim


@dataclass(frozen=True, slots=True)
class ProjectSuite:
    """A suite of the project, as ``orchestrator.evaluation.suite`` wants one.

    Attributes:
        name: The name of its folder of scenarios.
        purpose: A sentence that says what it asks.
        policies: The specs of those who meet.
        claims: Draws its claims.
        sections: Makes what it compares beside.
    """

    name: str
    purpose: str
    policies: tuple[str, ...]
    claims: Callable[[Sequence[ScenarioScores]], Iterable[Claim]]
    sections: Callable[[Sequence[ScenarioScores]], dict[str, Any]]

    @property
    def command(self) -> str:
        """What runs it."""
        return f"slimsched evaluate --suite {self.name}"

    def draw_claims(self, scenarios: Sequence[ScenarioScores]) -> tuple[Claim, ...]:
        """Return the claims, held against what was found."""
        return tuple(self.claims(scenarios))

    def make_sections(self, scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
        """Return what is compared: who could be the default, and what is the suite's own."""
        return {"default": encode_defaults(scenarios), **self.sections(scenarios)}

    def show_sections(self, sections: Mapping[str, Any]) -> Iterator[Block]:
        """Yield what a page shows of these sections."""
        return show_sections(sections)

    def draw_pictures(self, scenarios: Sequence[ScenarioScores]) -> dict[str, str]:
        """Return the picture of each test scenario."""
        return draw_pictures(scenarios)


_SUITES: Final = (
    ProjectSuite(
        "paper",
        "What arXiv 2510.09018 reports against random routing, at three loads.",
        # The paper's own policy meets the others where one ships with the project.
        (RANDOM, RANDOM_BATCH, *OF_PAPER, *LEARNED_POINTS, *((PAPER,) if has_shipped(PAPER) else ())),
        paper_claims,
        paper_sections,
    ),
    ProjectSuite(
        "standard",
        "The learned policy against heuristics whose knobs were tuned on each scenario's validation file.",
        (RANDOM, *HEURISTICS, *LEARNED_POINTS),
        standard_claims,
        standard_sections,
    ),
    ProjectSuite(
        "generalisation",
        "One checkpoint where it was not trained, against the guard's fallback.",
        GENERALISED,
        generalisation_claims,
        generalisation_sections,
    ),
)
SUITES: Final = {suite.name: suite for suite in _SUITES}
