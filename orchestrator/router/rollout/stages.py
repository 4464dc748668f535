"""What becomes of a candidate: it goes on, goes back, or stays where it is; and what holds after a restart.

It goes on when it is surely not below the policy in force by more than a tolerance, and back as soon as it is surely
below it. What a fit promises, more utility on held-out traffic, is not asked for in full: at an hour at which there is
no choice to be made both do the same. To be surely worse is to fall short of any promise. Where it stays unsure for
long, its mean decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from orchestrator.config.rollout import RolloutSettings
from orchestrator.router.rollout.evidence import Evidence

MOST_BLOCKS: Final = 400
"""After which the mean decides; with a share of a twentieth and slots of a second that is a bit over two hours."""
_MOST_FAULTS: Final = 0.05
"""Part of the decisions in the shadow that may be faults."""


class Verdict(StrEnum):
    """What has become of a candidate."""

    ROLLING = "rolling out"
    RETURNED = "returned"
    IN_FORCE = "in force"


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a candidate stands.

    Attributes:
        candidate: the sha256 of its file.
        stage: 0 in the shadow, then the number of its share; beyond the last share it is in force.
        since_unix_s: since when it stands there.
        why: in words.
        before_since_unix_s: since when the policy that it is to replace has been in force; 0 where that is not known.
        before_why: why that is.
    """

    candidate: str
    since_unix_s: float
    why: str
    stage: int = 0
    verdict: Verdict = Verdict.ROLLING
    before_since_unix_s: float = 0.0
    before_why: str = ""

    def share(self, shares: tuple[float, ...]) -> float:
        """Return the part of the time that it decides in."""
        if self.verdict is not Verdict.ROLLING:
            return float(self.verdict is Verdict.IN_FORCE)
        return shares[min(self.stage, len(shares)) - 1] if self.stage and shares else 0.0

    def describe(self, shares: tuple[float, ...]) -> str:
        """Return where it stands, in a word or two."""
        if self.verdict is not Verdict.ROLLING:
            return self.verdict
        return f"{self.share(shares):.0%} of the time" if self.stage else "shadow"

    def returned(self, why: str, unix_s: float) -> Rollout:
        """Return it as given up."""
        return replace(self, verdict=Verdict.RETURNED, since_unix_s=unix_s, why=why)

    def _next(self, why: str, unix_s: float, settings: RolloutSettings) -> Rollout:
        stage = self.stage + 1
        verdict = Verdict.ROLLING if stage <= len(settings.shares) else Verdict.IN_FORCE
        return replace(self, stage=stage, verdict=verdict, since_unix_s=unix_s, why=why)


def leave_shadow(rollout: Rollout, settings: RolloutSettings, outcomes: Mapping[str, int], *, unix_s: float) -> Rollout:
    """Return what follows from its decisions in the shadow, counted as ``same``, ``other`` and ``fault``."""
    decisions, faults = sum(outcomes.values()), outcomes.get("fault", 0)
    if decisions < settings.shadow_decisions:
        return rollout
    told = f"in the shadow {outcomes.get('other', 0)} of {decisions} decisions were others, and {faults} faults"
    if faults > _MOST_FAULTS * decisions:
        return rollout.returned(told, unix_s)
    return rollout._next(told, unix_s, settings)


def leave_share(rollout: Rollout, settings: RolloutSettings, evidence: Evidence, *, unix_s: float) -> Rollout:
    """Return what follows from what it was worth beside the policy in force, in its present share."""
    mean, half = evidence.mean, evidence.half
    told = f"{evidence}, at {rollout.share(settings.shares):.0%} of the time"
    if mean + half < 0:
        return rollout.returned(f"it was worse: {told}", unix_s)
    if evidence.requests < settings.answers:
        return rollout
    if mean - half > -settings.tolerance:
        return rollout._next(f"it was not worse: {told}", unix_s, settings)
    if evidence.blocks < MOST_BLOCKS:
        return rollout
    if mean > -settings.tolerance:
        return rollout._next(f"it stayed unsure, and was not worse on average: {told}", unix_s, settings)
    return rollout.returned(f"it stayed unsure, and was worse on average: {told}", unix_s)


def reconcile(own: Rollout, written: Rollout | None) -> Rollout:
    """Return where a candidate stands by one process and by what another one, of the same file, has written.

    What has ended has ended for all, as who wrote first says; else the later stage counts.
    """
    if written is None or written.candidate != own.candidate:
        return own
    if written.verdict is not Verdict.ROLLING:
        return written
    return written if own.verdict is Verdict.ROLLING and written.stage > own.stage else own


class Source(StrEnum):
    """Where the policy in force is read from as a router begins."""

    FILE = "file"
    KEPT = "kept"
    """The copy that the router made of the policy in force."""
    FALLBACK = "fallback"
    """The copy is lost, and the file is on trial or was given up."""


def resume(file: str, kept: str | None, written: Rollout | None, *, unix_s: float) -> tuple[Source, Rollout | None]:
    """Return what is in force as a router begins, and where the policy of the file stands, if it is on trial.

    ``file`` and ``kept`` are digests of the policy's file and of the copy, None where there is none. A rollout goes on
    at its stage, from new evidence.
    """
    if written is not None and written.candidate == file:
        if written.verdict is Verdict.IN_FORCE:
            return Source.FILE, written
        return Source.FALLBACK if kept is None or kept == file else Source.KEPT, written
    if kept is None or kept == file:
        return Source.FILE, None
    found = Rollout(file, unix_s, "its file was found as the router began")
    if written is None:
        return Source.KEPT, found
    is_of_kept = written.verdict is Verdict.IN_FORCE
    since_unix_s = written.since_unix_s if is_of_kept else written.before_since_unix_s
    why = written.why if is_of_kept else written.before_why
    return Source.KEPT, replace(found, before_since_unix_s=since_unix_s, before_why=why)
