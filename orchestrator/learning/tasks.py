"""What a policy is fitted to: a scenario's file, or a profiled fleet with what its router recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from orchestrator.config.fleet import FleetSettings, RouterSettings
from orchestrator.config.names import host_of, is_name, name_in_file, profile_entry
from orchestrator.errors import ConfigError
from orchestrator.learning.arrivals import Recorded, read_arrivals
from orchestrator.learning.objective import NO_PREFERENCE
from orchestrator.learning.traffic import Traffic, check_fleet
from orchestrator.policies.learned.policy import FITTED
from orchestrator.policies.learned.policy_file import LEARNED_NAMES
from orchestrator.profile.document import read_profile
from orchestrator.router.dispatch.decision_log import files_in
from orchestrator.router.rollout.record import in_force_path
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.residuals import recorded_factors
from orchestrator.simulation.scenario.settings import load_scenario, parse_scenario
from orchestrator.snapshot import READ_DEVICES_S

CROWDING: Final = 1.25
"""Of what is fitted to a profile; see orchestrator.learning.objective."""
_MIDDLES: Final = (np.arange(200) + 0.5) / 200
_USUAL: Final = np.interp(
    _MIDDLES,
    (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0),
    (0.81, 0.91, 0.95, 0.98, 1.01, 1.09, 1.2, 1.4, 1.8, 2.2, 3.0),
)
USUAL_FACTORS: Final[Sequence[float]] = tuple((_USUAL / _USUAL.mean()).tolist())
"""What batches take over what is expected of them, each as likely, over their mean: quantiles of real servers with busy
cores, between those of 3,014 batches that found their server idle and of 789 most of which waited. A profile measures
one batch after the other and knows nothing of the tail, for which a policy that is fitted to it leaves no time."""
LEAST_FACTORS: Final = 200
"""Batches of a decision log that say it in place of those."""
NO_OBJECTIVES: Mapping[str, float] = {}
_SHARED = (
    "deadline_ms",
    "energy_weight",
    "in_flight_groups",
    "max_attempts",
    "queue_limit",
    "request_timeout_s",
    "slack_margin",
)


def given_traffic(
    scenario: Path | None,
    profile: Path | None,
    arrivals: Path | None,
    objectives: Mapping[str, float] = NO_OBJECTIVES,
    *,
    family: str | None = None,
) -> Traffic:
    """Return the traffic of a scenario, or of a profiled fleet, with recorded arrivals in place of its own.

    ``objectives`` are those that are given with a profile, as in a scenario's file; others are the router's defaults.
    ``family`` says whose widths and arrivals they are, where a profile or a log has several.

    Raises:
        ConfigError: when both are given or neither, something is missing, counts for nothing, can't be used, or is of
            another fleet.
    """
    recorded = None if arrivals is None else read_arrivals(arrivals, family=family)
    if scenario is not None and profile is None:
        for key in objectives:
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(f"{option} goes with --profile; a scenario says its own in objectives.{key}")
        if family is not None and arrivals is None:
            raise ConfigError("--family goes with --profile or --arrivals; a scenario says its own families")
        task, own = scenario_task(scenario)
        return _checked(task, recorded or own)
    if profile is None or scenario is not None:
        raise ConfigError("name either --scenario or --profile, which say what fleet it is")
    if recorded is None or arrivals is None:
        raise ConfigError("--profile says nothing of the traffic; give --arrivals, or a --scenario in its place")
    values = {**objectives_of(RouterSettings()), **objectives}
    return _checked(profile_task(profile, values, family=family, factors=_factors_of(arrivals)), recorded)


def logged_traffic(
    fleet: FleetSettings, *, source: str, family: str | None, say: Callable[[str], None] = lambda line: None
) -> Traffic:
    """Return what the router of a fleet has recorded, on the servers that its profile knows and that still are.

    A host name stands for as many servers as the largest decision was about. Each has the profile's entry of its own
    name, else that of its name in the file, else that of its device class, as in the router. Servers that are left out
    are told with ``say``, a line for each reason.

    Raises:
        ConfigError: when the settings lack something, the log holds too little, or it is of another fleet.
    """
    router = fleet.router
    if router.profile is None or router.decision_log is None:
        missing = "profile" if router.profile is None else "decision_log"
        raise ConfigError(f"{source} has no router.{missing}, which a fit needs; set it and let the router record")
    directory = router.decision_log.directory
    if not os.path.isdir(directory):
        raise ConfigError(f"router.decision_log.directory of {source}: {directory} is no folder; let the router record")
    recorded = read_arrivals(directory, family=family)
    profiled = {str(server.name) for server in read_profile(router.profile).servers}
    in_file = {name: name_in_file(name, fleet.servers) for name in recorded.servers}
    met = {in_file[name] for name in recorded.together}
    gone = _gone(recorded, fleet, in_file)
    recorded = replace(recorded, servers=recorded.servers - gone, together=recorded.together - gone)
    if gone and not recorded.together:
        raise ConfigError(
            f"{directory} is the log of {', '.join(sorted(gone))}, which {source} does not have; record with the "
            "servers that it has"
        )
    names = {*recorded.together, *(server.name for server in fleet.servers if server.name not in met)}
    classes = {server.name: server.device_class for server in fleet.servers}
    in_file |= {name: name for name in names & classes.keys()}
    entries = {
        name: entry
        for name, written in in_file.items()
        if (entry := profile_entry(name, written, classes.get(written or ""), profiled)) is not None
    }
    servers = {name: entries.get(name, name) for name in sorted(names)}
    for left_out, why in ((gone, f"not in {source} any more"), (names - entries.keys(), f"not in {router.profile}")):
        if left_out:
            say(f"{', '.join(sorted(left_out))}: {why}, so the fit is without")
    factors = _factors_of(directory)
    read_every_s = READ_DEVICES_S if all(server.controller is not None for server in fleet.servers) else None
    task = profile_task(
        router.profile,
        objectives_of(router),
        servers=servers,
        family=family,
        factors=factors,
        read_every_s=read_every_s,
    )
    check_fleet(recorded, task, entries)
    _check_families(recorded, task)
    return Traffic(task, recorded)


def _gone(recorded: Recorded, fleet: FleetSettings, in_file: Mapping[str, str | None]) -> frozenset[str]:
    """Return which servers of a log the file has no more; with host names in it that can't be told."""
    if any(is_name(host_of(server.grpc)) for server in fleet.servers):
        return frozenset()
    return frozenset(name for name in recorded.servers if in_file[name] is None)


def _factors_of(arrivals: Path) -> Sequence[float]:
    """Return what batches took over what was expected, by a decision log that has enough of them; else what is usual.

    Of many they are quantiles.
    """
    if not arrivals.is_dir() and ".jsonl" not in arrivals.name:
        return USUAL_FACTORS
    found = recorded_factors(files_in(arrivals) if arrivals.is_dir() else [arrivals])
    if len(found) < LEAST_FACTORS:
        return USUAL_FACTORS
    factors: list[float] = np.quantile(found, _MIDDLES).tolist()
    return factors


def _checked(task: Task, recorded: Recorded | None) -> Traffic:
    if recorded is not None:
        check_fleet(recorded, task)
        _check_families(recorded, task)
    return Traffic(task, recorded)


def _check_families(recorded: Recorded, task: Task) -> None:
    """Check that arrivals are of one family where the task has no others; raises ConfigError."""
    if len(recorded.families) > 1 and not task.settings.families:
        raise ConfigError(
            f"{recorded.source} holds requests of {', '.join(sorted(recorded.families))}; name one with --family"
        )


def scenario_task(path: Path) -> tuple[Task, Recorded | None]:
    """Return the task of a scenario's file, and the timestamps that it replays, if it does.

    Raises:
        ConfigError: when it can't be used.
    """
    settings, servers = load_scenario(path)
    file = settings.workload.file
    if file is not None:
        settings = settings.with_workload(kind="poisson", file=None)
    return Task(settings, servers, NO_PREFERENCE), None if file is None else read_arrivals(file)


def profile_task(
    path: Path,
    objectives: Mapping[str, Any],
    *,
    servers: Mapping[str, str] | None = None,
    family: str | None = None,
    factors: Sequence[float] = USUAL_FACTORS,
    read_every_s: float | None = None,
) -> Task:
    """Return the task of a profiled fleet; objectives as in a scenario's file.

    Of ``servers``, entries of the profile by name, those that it knows; without any all of it. Of a profile of several
    families ``family`` says whose widths count. What the profile says batches take is multiplied by one of the
    ``factors`` each, any of which is as likely. Devices are read every ``read_every_s``, as controllers are asked;
    None: not.

    Raises:
        ConfigError: when the profile can't be used, or knows the family on none of the servers.
    """
    profile = read_profile(path)
    known = [str(server.name) for server in profile.servers]
    families = sorted({model.family for server in profile.servers for model in server.models})
    if family not in families and (family is not None or len(families) > 1):
        asked = "name one with --family" if family is None else f"there is no {family}; profile the servers with it"
        raise ConfigError(f"{path} knows the families {', '.join(families)}; {asked}")
    is_one = len(families) == 1
    having = {str(s.name) for s in profile.servers if is_one or any(m.family == family for m in s.models)}
    entries = {name: entry for name, entry in (servers or {name: name for name in known}).items() if entry in having}
    if not entries:
        raise ConfigError(
            f"{path} knows {', '.join(known) or 'no server'}, the fleet has {', '.join(servers or ()) or 'none'}; "
            "profile it with 'slimsched profile'"
        )
    values = {
        "name": family or path.stem,
        "servers": [
            {"name": name, "profile": str(path.resolve()), "profile_server": entry} for name, entry in entries.items()
        ],
        "hosts": [
            {"name": name, "cores": 1, "servers": {name: 0}, "residuals": {"factors": list(factors)}}
            for name in entries
        ],
        "objectives": dict(objectives),
        "telemetry": {"read_every_s": read_every_s},
        **({"families": {family: {}}} if len(families) > 1 else {}),
    }
    settings, fleet = parse_scenario(yaml.safe_dump(values), source=str(path), folder=path.parent)
    return Task(settings, fleet, NO_PREFERENCE, CROWDING)


def objectives_of(router: RouterSettings) -> dict[str, Any]:
    """Return what a router asks of its fleet, as a scenario says it."""
    return {**{key: getattr(router, key) for key in _SHARED}, "shed_late": router.overload.shed_late}


def present_spec(router: RouterSettings) -> str:
    """Return the policy in force as a spec that names its file: the copy, while that file is on trial or given up."""
    if router.policy not in (FITTED, *LEARNED_NAMES) or router.policy_file is None:
        return router.policy
    path = router.policy_file if router.rollout is None else in_force_path(router.policy_file)
    return f"{router.policy}:{path}"
