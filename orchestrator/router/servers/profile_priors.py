"""Where models of real servers start: from their entries in profile.json, when there is one that is about them.

The router asks once for each model that it discovers. An entry replaces the warm-up and all that was observed of the
name before, for other weights may have served under it; what has no entry warms up as ever. Entries for other weights
or another emulation are logged once and ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Self

from orchestrator.config import FleetSettings
from orchestrator.config.names import profile_entry
from orchestrator.profile.document import Profile, read_profile
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.profile.start import Start, check_live, find_start
from orchestrator.snapshot import ModelName, ServedModel, ServerName

log = logging.getLogger(__name__)


class ProfileStarts:
    """What a profile, if there is one, knows of models before they are run.

    Args:
        profile: None: there is none.
        slowdowns: Emulated factors by server of the file, None where a server is as fast as its machine.
        device_classes: Device classes by server of the file, None where it says none.

    Attributes:
        in_file: The names in the fleet file by those of servers behind its host names, which have its entry unless they
            have one of their own, and else that of its device class.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        slowdowns: Mapping[ServerName, float | None] | None = None,
        device_classes: Mapping[ServerName, str | None] | None = None,
    ) -> None:
        self._profile = profile
        self._known = frozenset(str(server.name) for server in profile.servers) if profile is not None else frozenset()
        self._slowdowns = slowdowns or {}
        self._device_classes = device_classes or {}
        self.in_file: Mapping[str, str] = {}
        self._logged: set[str] = set()
        self._begun: dict[tuple[ServerName, ModelName], str | None] = {}

    @classmethod
    def from_fleet(cls, fleet: FleetSettings) -> Self:
        """Return the starts that a fleet's settings name.

        Raises:
            ConfigError: when ``router.profile`` can't be read, is no profile or is synthetic.
        """
        path = fleet.router.profile
        if path is None:
            return cls()
        profile = read_profile(path)
        check_live(profile, source=str(path))
        return cls(
            profile,
            {ServerName(server.name): server.emulated_slowdown for server in fleet.servers},
            {ServerName(server.name): server.device_class for server in fleet.servers},
        )

    def begin(
        self, server: ServerName, model: ServedModel, latency: LatencyTable, energy: EnergyTable
    ) -> tuple[LatencyTable, EnergyTable, bool]:
        """Return the tables to go on with once a model was discovered, and whether it has an entry.

        What was observed of the same weights before, on a server that was away, stays.
        """
        key = (server, model.name)
        found = self._find(server, model)
        if found is None:
            return latency, energy.start(server, model.name, None), False
        if self._begun.get(key) == model.sha256 and key in latency.fits:  # else another machine goes by that name
            return latency, energy, True
        self._begun[key] = model.sha256
        return latency.start(server, model.name, found.latency), energy.start(server, model.name, found.energy), True

    def _find(self, server: ServerName, model: ServedModel) -> Start | None:
        if self._profile is None:
            return None
        in_file = ServerName(self.in_file.get(server, server))
        entry = profile_entry(server, in_file, self._device_classes.get(in_file), self._known)
        found = find_start(self._profile, ServerName(entry or in_file), model, slowdown=self._slowdowns.get(in_file))
        if isinstance(found, Start):
            return found
        if found not in self._logged:
            self._logged.add(found)
            log.warning("the profile says nothing of model %s on server %s: %s", model.name, server, found)
        return None
