"""What a batch costs on a server: time and energy, observed live or read from profile.json, as pure values.

``fit`` is the line of one (server, model) and the lines of all, ``runs`` tells what to observe of answers that came
together, and ``energy`` holds joules. ``document`` is profile.json as values, ``codec`` its text, and ``start`` says
what it is worth for a server as it is now. Nothing here measures or knows a clock.
"""

from orchestrator.profile.codec import parse_profile, read_profile, render_profile, write_profile
from orchestrator.profile.document import (
    BatchProfile,
    Conditions,
    FittedLine,
    IdlePower,
    ModelChanges,
    ModelProfile,
    Origin,
    Profile,
    ServerProfile,
    Timing,
    batch_ladder,
)
from orchestrator.profile.energy import EnergyLine, EnergySource, EnergyTable
from orchestrator.profile.fit import LatencyFit, LatencyTable, fit_energy, fit_latency
from orchestrator.profile.runs import Run, merge_runs
from orchestrator.profile.start import Start, check_live, find_start

__all__ = [
    "BatchProfile",
    "Conditions",
    "EnergyLine",
    "EnergySource",
    "EnergyTable",
    "FittedLine",
    "IdlePower",
    "LatencyFit",
    "LatencyTable",
    "ModelChanges",
    "ModelProfile",
    "Origin",
    "Profile",
    "Run",
    "ServerProfile",
    "Start",
    "Timing",
    "batch_ladder",
    "check_live",
    "find_start",
    "fit_energy",
    "fit_latency",
    "merge_runs",
    "parse_profile",
    "read_profile",
    "render_profile",
    "write_profile",
]
