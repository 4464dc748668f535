"""The suites that ``slimsched evaluate`` runs, one for each folder in ``scenarios/test``.

``paper`` has claims; each other folder, of a user's own too, is compared without any. Whatever is chosen is chosen on
validation scenarios (``choices``). ``sections`` is what a suite compares, as JSON; ``page`` and ``pictures`` show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.suites.page import show_sections
from benchmarks.suites.paper import paper_claims
from benchmarks.suites.pictures import draw_pictures
from benchmarks.suites.policies import LEARNED_POINTS, OF_PAPER, PAPER_POINTS, RANDOM, RANDOM_BATCH, SINGLES
from benchmarks.suites.sections import encode_defaults, paper_sections, plain_sections
from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER
from orchestrator.reporting.blocks import Block
from orchestrator.reporting.claim import Claim


@dataclass(frozen=True, slots=True)
class ProjectSuite:
    """A suite, as ``orchestrator.evaluation.suite`` wants one.

    Attributes:
        name: The name of its folder of scenarios.
        purpose: A sentence that says what it asks.
        policies: The specs of those who meet.
        sections: Makes what it compares beside.
        claims: Draws its claims.
    """

    name: str
    purpose: str
    policies: tuple[str, ...]
    sections: Callable[[Sequence[ScenarioScores]], dict[str, Any]]
    claims: Callable[[Sequence[ScenarioScores]], Iterable[Claim]] = lambda scenarios: ()

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


def find_suite(name: str) -> ProjectSuite:
    """Return the suite of a folder, whether there is one or not."""
    if name == "paper":
        # The paper's own policy meets the others where one ships with the project.
        policies = (RANDOM, RANDOM_BATCH, *OF_PAPER, *LEARNED_POINTS, *(PAPER_POINTS if has_shipped(PAPER) else ()))
        purpose = "What arXiv 2510.09018 reports against random routing, at three loads."
        return ProjectSuite(name, purpose, policies, paper_sections, paper_claims)
    return ProjectSuite(name, f"Policies on the scenarios of test/{name}.", (RANDOM, *SINGLES), plain_sections)
