"""What a suite runs: its test scenarios, their validation files, and the policies that meet on them.

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
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.evaluation.policy_entries import UNTUNED, PolicyEntry, head_of, make_entry
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, digest_scenario, load_scenario

VALIDATION_SEEDS: Final = 1_000_000
"""Seeds of validation traces begin here."""


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario with the policies that meet on it.

    Attributes:
        stem: The name of its file; a validation case has that of its test case.
        is_validation: Whether choices are made by it.
        requests: How many requests a run has at most; None: as many as the file says.
        traces: The seeds of its traces.
        entries: The policies, in the order of tables.
        digest: Of all that the scenario says.
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
        """Its name in pictures and tests, unlike all others of its suite."""
        return f"{'validation' if self.is_validation else 'test'}/{self.stem}"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a suite is run.

    Attributes:
        traces: How many traces each test scenario has.
        validation_traces: How many traces each validation scenario has.
        seeds: How many seeds a policy that draws random numbers is run with on each trace.
        requests: How many requests a run has at most; None: as many as the files say.
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
        settings = settings.with_workload(requests=requests)
    return settings, servers


def plan_cases(
    suite: str, policies: Sequence[str], root: Path, extent: Extent, *, without: Sequence[str] = ()
) -> tuple[Case, ...]:
    """Return all that a suite runs, test cases first, by name.

    Args:
        suite: The suite's name.
        policies: The specs of the policies that meet.
        root: The folder that holds ``test``, ``validation`` and ``tuned.json``.
        extent: How much of the suite is run.
        without: Names that are left out; one without knobs leaves out all of its kind.

    Raises:
        ConfigError: when the suite has no scenarios, or a file or a policy can't be used.
    """
    folder = root / "test" / suite
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder} holds no scenario; run in the project's folder, or name another with --scenarios")
    names = [n for n in policies if n not in without and head_of(n) not in without]
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
                own += tuple(make_entry(c.label + UNTUNED, c.label) for c in own if c.is_tuned)
            traces = tuple(range(first, first + count))
            digest = digest_scenario(*load_case(path, extent.requests))
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


def _validation_file(root: Path, suite: str, name: str) -> Path | None:
    """Return the file that choices are made on for a test scenario: of the suite's own folder, or the common one."""
    own, common = root / "validation" / suite / name, root / "validation" / name
    return own if own.is_file() else common if common.is_file() else None


def _tuned(entry: PolicyEntry, specs: Mapping[str, str]) -> PolicyEntry:
    spec = specs.get(entry.label)
    return entry if spec is None else make_entry(entry.label, spec, is_tuned=True)
