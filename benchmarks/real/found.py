"""What a run has measured so far, line by line of its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.real.promises import Promises, decode_promises
from benchmarks.real.results import Line, decode_line


@dataclass(frozen=True, slots=True)
class Found:
    """What is known by now.

    Attributes:
        capacities_rps: Requests a second that each fleet answers at full width.
        profiles: The profile of each fleet, as JSON values: of the servers that were measured, because an
            emulated one is not as slow again when it is started anew.
        lines: What each set-up did in each cell.
        promises: What became of promises.
    """

    capacities_rps: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    promises: list[Promises] = field(default_factory=list)

    def add(self, values: Mapping[str, Any]) -> None:
        """Take a line of the journal; raises KeyError and TypeError when it is none."""
        if "capacity_rps" in values:
            self.capacities_rps[values["fleet"]] = float(values["capacity_rps"])
        elif "profile" in values:
            self.profiles[values["fleet"]] = values["profile"]
        elif "groups" in values:
            self.promises.append(decode_promises(values))
        else:
            self.lines.append(decode_line(values))
