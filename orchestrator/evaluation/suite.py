"""What a suite is, and where those that ``slimsched evaluate`` runs are made.

Their claims belong to the project's measurements and not to the package: they lie beside the scenarios, in
``benchmarks/suites``, in a checkout as in what ships, and nothing but ``load_suite`` knows of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from orchestrator.errors import ConfigError
from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.reporting.blocks import Block
from orchestrator.reporting.claim import Claim
from orchestrator.shipped import ROOT

_SUITES: Final = "benchmarks.suites"
_FOLDER: Final = Path("benchmarks") / "suites"


class Suite(Protocol):
    """Scenarios of one name, the policies that meet on them, and what is claimed and compared."""

    @property
    def name(self) -> str:
        """The name of its folder of test scenarios."""

    @property
    def purpose(self) -> str:
        """A sentence that says what it asks."""

    @property
    def command(self) -> str:
        """What runs it."""

    @property
    def policies(self) -> tuple[str, ...]:
        """The specs of the policies that meet, in the order of tables."""

    def draw_claims(self, scenarios: Sequence[ScenarioScores]) -> tuple[Claim, ...]:
        """Return the claims, held against what was found."""

    def make_sections(self, scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
        """Return what is compared, as JSON values by the names of the document's sections."""

    def show_sections(self, sections: Mapping[str, Any]) -> Iterator[Block]:
        """Yield what a page shows of these sections."""

    def draw_pictures(self, scenarios: Sequence[ScenarioScores]) -> Mapping[str, str]:
        """Return the picture of each test scenario as an SVG element, by its stem."""


def load_suite(name: str, root: Path) -> Suite:
    """Return the suite of that name, of the scenarios in ``root/test/NAME``.

    What makes it is beside ``root``, else in the working directory, else in what ships.

    Raises:
        ConfigError: when it is nowhere.
    """
    holds_suites = (place for place in (root.resolve().parent, Path.cwd(), ROOT) if os.path.isdir(place / _FOLDER))
    place = next(holds_suites, None)
    if place is not None and str(place) not in sys.path:
        sys.path.insert(0, str(place))
    try:
        suite: Suite = import_module(_SUITES).find_suite(name)
    except ModuleNotFoundError as exc:
        if not _SUITES.startswith(str(exc.name)):
            raise
        raise ConfigError(f"no suites in {ROOT}; install slim-scheduler anew") from None
    return suite
