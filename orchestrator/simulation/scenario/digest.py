"""The identity of a scenario: a digest of all that it says, by which results are kept and found again.

Keys that came after the first digests are left out where they are at their defaults, so that older digests stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.simulation.scenario import workloads
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.workload_settings import KINDS

_OF_CONTROLLER: Final = {"instance_mib", "load_ms", "scale_ms", "unload_ms"}
"""Keys of a width that only a controller reads."""
_LATER_OF_SERVERS: Final = {"contention", "dynamic_batching"}
"""Keys of a server that came after the first digests."""
_LATER: Final[Mapping[str, tuple[str, ...]]] = {
    "workload": ("priorities", "callers", "deadlines_ms", "numbers", "classes"),
    "objectives": ("shed_late", "energy_weight"),
    "telemetry": ("read_every_s",),
}
"""Likewise of other sections."""


def digest_scenario(settings: ScenarioSettings, servers: Sequence[SimulatedServer]) -> str:
    """Return the identity of a scenario, a digest of all that it says, of its fleet and of the times that it replays.

    Raises:
        ConfigError: when the file of times is missing or out of order.
    """
    text = settings.model_dump_json(exclude=_left_out(settings)) + repr(tuple(servers))
    if settings.workload.kind not in KINDS:
        text += workloads.PLUGINS.version(settings.workload.kind)
    delays_s = [[model.delay_s for model in server.models] for server in servers]
    if any(any(row) for row in delays_s):
        text += repr(delays_s)  # only then, so that the digests of all others stay what they were
    if settings.controller is not None:
        text += repr([[(model.scale_s, model.unload_s) for model in server.models] for server in servers])
    if settings.families:
        text += repr([[model.family for model in server.models] for server in servers])
    if settings.workload.file is not None:
        settings.workload.shape()
        text += settings.workload.file.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _left_out(settings: ScenarioSettings) -> dict[str, Any]:
    excluded: dict[str, Any] = {name: _at_default(settings, name) for name in _LATER}
    excluded["workload"].add("file")
    used = {key for server in settings.servers for key in _LATER_OF_SERVERS if getattr(server, key)}
    of_servers: dict[str, Any] = dict.fromkeys(_LATER_OF_SERVERS - used, True)
    if not settings.hosts:
        excluded["hosts"] = True
    elif all(host.router is None or host.router.weight == 1 for host in settings.hosts):
        excluded["hosts"] = {"__all__": {"router": {"weight"}}}
    if settings.controller is None:
        excluded["controller"] = of_servers["limits"] = True
        of_servers["widths"] = {"__all__": _OF_CONTROLLER}
        of_servers["families"] = {"__all__": {"__all__": _OF_CONTROLLER}}
    if not settings.families:
        excluded["families"] = of_servers["families"] = True
        excluded["workload"] |= {"drift_amplitude", "drift_periods"}
    if of_servers:
        excluded["servers"] = {"__all__": of_servers}
    if settings.faults.heat_s is None:
        excluded["faults"] = {"heat_s", "hot_above"}
    if settings.sharing.away_every_s is None:
        excluded["sharing"] = True
    return excluded


def _at_default(settings: ScenarioSettings, name: str) -> set[str]:
    """Return the later keys of a section that are at their defaults."""
    section = getattr(settings, name)
    return {key for key in _LATER[name] if getattr(section, key) == type(section).model_fields[key].default}
