"""What a suite runs: its test scenarios, their validation files, and the policies that meet on them by their specs.

Test scenarios lie in ``scenarios/test/SUITE``. A file of the same name in ``scenarios/validation/SUITE`` or, for all
suites, in ``scenarios/validation`` is the one on which knobs were tuned (``scenarios/tuned.json``) and on which the
best heuristic, operating points and the default are chosen; nothing is ever chosen by what test scenarios show. Their
traces have seeds of their own besides.

Every scenario has a digest of all that it says and of the profiles that it names, so that runs of different things are
never mixed.

One learned policy stands at several points of its frontier, by the weights in its spec
(``ppo-slim,accuracy=0,latency=0,energy=1``). A heuristic that was tuned keeps its name and has another spec in each
scenario.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import LEARNED_NAMES, SLIM, PolicyFile
from orchestrator.policies.parsing import is_of_package, parse_own_policy, parse_policy
from orchestrator.policies.plugins import PLUGINS
from orchestrator.policies.protocol import Policy, RowPolicy
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, load_scenario

VALIDATION_SEEDS: Final = 1_000_000
"""Seeds of validation traces begin here."""
LEARNED: Final = SLIM
UNTUNED: Final = " untuned"
"""Ends the label of a policy with its own defaults beside the tuned one, on validation scenarios."""


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy in one scenario.

    Attributes:
        label: What tables call it, the same in all scenarios.
        identity: The spec, of a learned policy with what its file holds, of another package's with that package's
            version; equal only for what decides alike.
        is_tuned: Whether the spec was tuned on the scenario's validation file.
    """

    label: str
    spec: str
    identity: str
    is_tuned: bool = False


def make_entry(label: str, spec: str, *, is_tuned: bool = False) -> PolicyEntry:
    """Return a policy in a scenario.

    Raises:
        ConfigError: when there is no such policy, or a learned policy's file can't be used.
    """
    policy = open_policy(spec)
    identity = spec
    if isinstance(policy, LearnedPolicy):
        identity = f"{spec} {_digest(policy.file)}"
    elif is_of_package(spec):
        identity = f"{spec} {PLUGINS.version(spec.partition(',')[0])}"
    return PolicyEntry(label, spec, identity, is_tuned)


def identities(specs: Sequence[str]) -> list[str]:
    """Return the identity of the policy of each spec; raises as ``make_entry``."""
    return [make_entry(spec, spec).identity for spec in specs]


def open_policy(spec: str) -> Policy:
    """Return the policy of a spec, for one run.

    All that ours remember is kept by the world that they decide in; what another package's policy remembers, it keeps
    itself, so it is made anew.

    Raises:
        ConfigError: when there is no such policy, or a learned policy's file can't be used.
    """
    return parse_policy(spec) if is_of_package(spec) else open_own_policy(spec)


@lru_cache(maxsize=64)
def open_own_policy(spec: str) -> RowPolicy:
    """Return a policy of this package; raises ConfigError as ``open_policy``, and for one of another package."""
    return parse_own_policy(spec)


def head_of(label: str) -> str:
    """Return which policy it is, without width rule, file or knobs."""
    return label.partition(",")[0].partition(":")[0].removesuffix(UNTUNED)


def is_learned(label: str) -> bool:
    """Return whether a label is of a learned policy."""
    return head_of(label) in LEARNED_NAMES


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario with the policies that meet on it.

    Attributes:
        stem: The name of its file; a validation case has that of its test case.
        is_validation: Whether choices are made by it.
        requests, traces: As of the ``Extent``; the seeds of its traces.
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
        traces, validation_traces: How many each test scenario and each validation scenario has.
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

    The folder ``root`` holds ``test``, ``validation`` and ``tuned.json``. Policies are specs; of those named in
    ``without``, one without knobs leaves out all of its kind.

    Raises:
        ConfigError: when the suite has no scenarios, or a file or a policy can't be used.
    """
    tests = root / "test"
    try:
        paths = sorted((tests / suite).glob("*.yaml"))
    except OSError as exc:
        raise ConfigError(f"can't read {tests / suite} ({exc.strerror}); --scenarios names another folder") from exc
    if not paths or Path(suite).name != suite:
        known = ", ".join(sorted({path.parent.name for path in tests.glob("*/*.yaml")})) or "none"
        raise ConfigError(f"{tests / suite} holds no scenario; suites there: {known}; --scenarios names another folder")
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
    return next((path for path in (own, common) if os.path.isfile(path)), None)


def _tuned(entry: PolicyEntry, specs: Mapping[str, str]) -> PolicyEntry:
    spec = specs.get(entry.label)
    return entry if spec is None else make_entry(entry.label, spec, is_tuned=True)


def _digest(file: PolicyFile) -> str:
    """Return a digest of all of a learned policy's file that decides."""
    found = hashlib.sha256(repr((file.kind, file.base, file.preference, file.strength, file.fleet)).encode())
    for name in sorted(file.weights):
        found.update(name.encode() + file.weights[name].tobytes())
    found.update(file.low.tobytes() + file.high.tobytes())
    return found.hexdigest()[:12]
