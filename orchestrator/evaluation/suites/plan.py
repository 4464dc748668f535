"""What a suite runs: its test scenarios, their validation files, and who meets on them.

Test scenarios lie in ``scenarios/test/SUITE``. A file of the same name in ``scenarios/validation/SUITE`` or, for all
suites, in ``scenarios/validation`` is the one on which knobs were tuned (``scenarios/tuned.json``) and on which the
best heuristic, operating points and the default are chosen; nothing is ever chosen by what test scenarios show. Their
traces have seeds of their own besides.

Every scenario has a digest of all that it says and of the profiles that it names, so that runs of different things are
never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.config import GuardSettings
from orchestrator.errors import ConfigError
from orchestrator.evaluation.policy_entries import LEARNED, UNTUNED, PolicyEntry, head_of, make_entry
from orchestrator.policies.learned import PAPER, has_shipped
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, digest_scenario, load_scenario

VALIDATION_SEEDS: Final = 1_000_000
"""Seeds of validation traces begin here."""
LEARNED_POINTS: Final = (
    LEARNED,
    f"{LEARNED},accuracy=1,latency=0,energy=0",
    f"{LEARNED},accuracy=0.75,latency=0.1,energy=0.15",
    f"{LEARNED},accuracy=0.6,latency=0.1,energy=0.3",
    f"{LEARNED},accuracy=0.45,latency=0.1,energy=0.45",
    f"{LEARNED},accuracy=0.3,latency=0.1,energy=0.6",
    f"{LEARNED},accuracy=0.2,latency=0.1,energy=0.7",
    f"{LEARNED},accuracy=0.1,latency=0.1,energy=0.8",
    f"{LEARNED},accuracy=0,latency=0,energy=1",
)
"""The one checkpoint at the weights that it comes with and along its frontier."""
RANDOM: Final = "random"
RANDOM_BATCH: Final = "random-batch"
"""Draws how many go together as well, as the paper's actions do, and so binds late."""
FALLBACK: Final = GuardSettings().fallback
"""The guard's, by default. It is ``lert:slack`` with half of the time that waits in reserve, and has no tuning of its
own: ``lert:slack,slack_margin=2``, which is among what is tried of that, keeps as much, of the head's time too."""
HEURISTICS: Final = (
    "round-robin:slack",
    "weighted-round-robin:slack",
    "least-work:slack",
    "jsq:slack",
    "sed:slack",
    "p2c:slack",
    "p2c-jsq:slack",
    "weighted-random:slack",
    FALLBACK,
    "lert:slack",
    "lert:widest",
    "lert:narrowest",
    "lect:slack",
    "achq",
    "clipper-plus:slack",
    "clipper-aimd:slack",
    "nexus",
    "control-limit",
    "slackfit",
    "slackfit-accuracy",
    "max-accuracy",
    "max-batch",
    "clockwork",
    "infaas",
    "model-switching",
    "alert",
    "thrift",
    "fluid-lp",
    "proteus-lp",
)
OF_PAPER: Final = (
    "random:narrowest",
    "weighted-random:narrowest",
    "jsq:narrowest",
    "lert:narrowest",
    "clipper-plus:narrowest",
    "nexus:narrowest",
    "jsq",
    "lert:widest",
    "lert:75",
    "clipper-plus:75",
    "nexus:75",
    "control-limit:75",
    "control-limit:75,limit=16",
    FALLBACK,
    "lert:slack",
    "slackfit",
    "max-accuracy",
    "max-batch",
    "alert,goal=1",
)
"""Policies at the slimmest width, and such as may be more accurate than random ones and take fewer joules."""


class Suite(StrEnum):
    """Which scenarios and claims."""

    PAPER = "paper"
    STANDARD = "standard"
    GENERALISATION = "generalisation"


POLICIES: Final[Mapping[Suite, tuple[str, ...]]] = {
    Suite.PAPER: (RANDOM, RANDOM_BATCH, *OF_PAPER, *LEARNED_POINTS),
    Suite.STANDARD: (RANDOM, *HEURISTICS, *LEARNED_POINTS),
    Suite.GENERALISATION: (FALLBACK, "jsq:slack", "slackfit", "max-accuracy", "control-limit", LEARNED),
}


def entries_of(suite: Suite) -> tuple[str, ...]:
    """Return who meets in a suite; in ``paper`` with ``ppo-paper`` where one ships with the project."""
    own = POLICIES[suite]
    return (*own, PAPER) if suite is Suite.PAPER and has_shipped(PAPER) else own


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario with who meets on it.

    Attributes:
        stem: its file's name; a validation case has that of its test case.
        is_validation: whether choices are made by it.
        path: of the file.
        requests: at most so many; None: as the file says.
        traces: seeds of its traces.
        entries: in the order of tables.
        digest: of all that the scenario is.
    """

    stem: str
    is_validation: bool
    path: Path
    requests: int | None
    traces: tuple[int, ...]
    entries: tuple[PolicyEntry, ...]
    digest: str

    @property
    def key(self) -> str:
        """Names it in journals and documents."""
        return f"{'validation' if self.is_validation else 'test'}/{self.stem}"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a suite is run.

    Attributes:
        traces: of each test scenario.
        validation_traces: of each validation scenario.
        seeds: of the lots of each policy that draws any, on each trace.
        requests: of each run at most; None: as the files say.
    """

    traces: int = 20
    validation_traces: int = 6
    seeds: int = 10
    requests: int | None = None


def load_case(path: Path, requests: int | None) -> tuple[ScenarioSettings, tuple[SimulatedServer, ...]]:
    """Return a scenario with at most so many requests, and its fleet.

    Raises:
        ConfigError: when the file can't be used.
    """
    settings, servers = load_scenario(path)
    if requests is not None and requests < settings.workload.requests:
        workload = settings.workload.model_copy(update={"requests": requests})
        settings = settings.model_copy(update={"workload": workload})
    return settings, servers


def plan_cases(
    suite: Suite, root: Path, extent: Extent, *, policies: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[Case, ...]:
    """Return all that a suite runs, test cases first, by name.

    Args:
        suite: which.
        root: the folder that holds ``test``, ``validation`` and ``tuned.json``.
        extent: how much of it.
        policies: in place of the suite's own.
        without: names that are left out; one without knobs leaves out all of its kind.

    Raises:
        ConfigError: when the suite has no scenarios, or a file or a policy can't be used.
    """
    folder = root / "test" / suite
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder} holds no scenario; run in the project's folder, or name another with --scenarios")
    names = [n for n in policies or entries_of(suite) if n not in without and head_of(n) not in without]
    if not names:
        raise ConfigError(f"--without {', '.join(without)} leaves no policy in suite {suite}; leave out fewer")
    entries = [make_entry(name, name) for name in dict.fromkeys(names)]
    tuned = read_tuned(root / "tuned.json")
    cases = []
    for is_validation, count in ((False, extent.traces), (True, extent.validation_traces)):
        for test in paths:
            path = _validation_file(root, suite, test.name) if is_validation else test
            if path is None or not count:
                continue
            first = VALIDATION_SEEDS if is_validation else 0
            own = tuple(_tuned(c, tuned.get(test.stem, {})) for c in entries)
            if is_validation:
                own += tuple(_untuned(c) for c in own if c.is_tuned)
            traces = tuple(range(first, first + count))
            digest = _digest(path, extent.requests)
            cases.append(Case(test.stem, is_validation, path, extent.requests, traces, own, digest))
    return tuple(cases)


def read_tuned(path: Path) -> Mapping[str, Mapping[str, str]]:
    """Return the specs of tuned policies by scenario and by name untuned; nothing where there is no such file.

    Raises:
        ConfigError: when the file can't be used.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {path} ({exc}); tune anew or remove it") from exc
    found: dict[str, dict[str, str]] = {}
    try:
        for stem, families in values.items():
            found[stem] = {name: str(entry["spec"]) for name, entry in families.items()}
    except (AttributeError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"{path}: {type(exc).__name__} {exc}; it maps scenario to policy to {{'spec': …}}; tune anew or remove it"
        ) from exc
    return found


def _validation_file(root: Path, suite: Suite, name: str) -> Path | None:
    """Return the file that choices are made on for a test scenario: of the suite's own folder, or the common one."""
    own, common = root / "validation" / suite / name, root / "validation" / name
    return own if own.is_file() else common if common.is_file() else None


def _tuned(entry: PolicyEntry, specs: Mapping[str, str]) -> PolicyEntry:
    spec = specs.get(entry.label)
    return entry if spec is None else make_entry(entry.label, spec, is_tuned=True)


def _untuned(entry: PolicyEntry) -> PolicyEntry:
    return make_entry(entry.label + UNTUNED, entry.label)


def _digest(path: Path, requests: int | None) -> str:
    settings, servers = load_case(path, requests)
    return digest_scenario(settings, servers)
