"""What a group costs on a server: time and energy, as pure values.

``fit`` is the line of one (server, model), ``table`` the lines of all, ``runs`` tells what to observe of answers that
came together, ``energy`` holds joules. Nothing here measures, reads a file or knows a clock.
"""

from orchestrator.profile.energy import EnergyLine, EnergySource, EnergyTable
from orchestrator.profile.fit import LatencyFit
from orchestrator.profile.runs import Run, merge_runs
from orchestrator.profile.table import LatencyTable

__all__ = [
    "EnergyLine",
    "EnergySource",
    "EnergyTable",
    "LatencyFit",
    "LatencyTable",
    "Run",
    "merge_runs",
]
