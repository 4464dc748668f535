"""What a profile says of a served model: a start for the router's own observations, or why it says nothing.

The start weighs as much as PRIOR_BATCHES observed batches. Observations weigh up to 1 / (1 - DECAY) = 20 in all, so the
profile decides at first and is outweighed after a dozen batches: a machine that has become slower than its profile is
noticed nearly as soon as one that never had any.

An entry for other weights is no worse guess but about something else, so it is ignored and the reason is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.profile.document import TAKE_AGAIN, ModelProfile, Origin, Profile
from orchestrator.profile.fit import EnergyLine, LatencyFit, fit_energy, weighted_fit
from orchestrator.snapshot import ServedModel, ServerName

PRIOR_BATCHES = 10.0
"""Observed batches that a profile counts as."""
PRIOR_ITEMS = 8
"""The items of half of them; the others have one. Batches of 32 would hold the line where it was by their long lever:
of a machine that became three times slower and gets batches of 1 and 8, a batch of 1 is then thought to take twice as
long as it does after 16 batches; with 8 it is 19 % less."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a (server, model) starts with, as if PRIOR_BATCHES had been observed; energy is None while unknown."""

    latency: LatencyFit
    energy: EnergyLine | None


def find_start(profile: Profile, server: ServerName, model: ServedModel, *, slowdown: float | None) -> Start | str:
    """Return where ``model`` on ``server`` starts, or in a sentence with the remedy why the profile does not say.

    ``slowdown`` is the emulated factor of the server as fleet.yaml has it; None when there is none.
    """
    found = profile.server(server)
    entry = profile.model(server, model.name)
    if found is None or entry is None:
        return f"it has no entry for model {model.name} on server {server}; {TAKE_AGAIN}"
    if (found.slowdown or 1) != (slowdown or 1):
        return (
            f"server {server}: it was taken with the emulated slow-down {found.slowdown or 1:g}, the server has "
            f"{slowdown or 1:g}; {TAKE_AGAIN}"
        )
    if entry.sha256 != model.sha256:
        return (
            f"model {model.name} on server {server}: sha256 {_short(entry.sha256)} is not the served "
            f"{_short(model.sha256)}; {TAKE_AGAIN}"
        )
    return Start(prior_fit(entry), fit_energy(entry.batches))


def check_live(profile: Profile, *, source: str) -> None:
    """Check that a profile may steer real servers; raises ConfigError when it is synthetic."""
    for server in profile.servers:
        if server.origin is Origin.SYNTHETIC:
            raise ConfigError(f"{source}: server {server.name} is synthetic, which is for simulation; {TAKE_AGAIN}")


def prior_fit(model: ModelProfile) -> LatencyFit:
    """Return the model's line as if PRIOR_BATCHES batches had been observed on it."""
    sizes = (1, min(PRIOR_ITEMS, model.max_batch_size))
    return weigh_batches([(items, model.line.per_item_s * items + model.line.fixed_s) for items in sizes])


def weigh_batches(batches: Sequence[tuple[int, float]]) -> LatencyFit:
    """Return a fit as if PRIOR_BATCHES batches had been observed, of (items, seconds) each as often."""
    part = PRIOR_BATCHES / len(batches)
    return weighted_fit([(part, items, time_s) for items, time_s in batches])


def _short(sha256: str | None) -> str:
    return "unknown" if sha256 is None else f"{sha256[:12]}…"
