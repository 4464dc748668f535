"""Configs that failed to load are left alone for a growing time, with Triton's reason.

Each failed reload of a loaded model costs Triton 2.51 something that only a restart gives back (its shutdown waits
for an entry that nothing erases, and a failed session may leak), so trying again at once is worse than waiting.
What is quarantined is a model with one exact config: another batching may load at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.host import Batching
from orchestrator.snapshot import ModelName


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """After how many failures in a row, and until when on the controller's clock, one config is left alone.

    The reason is Triton's, for the last failure.
    """

    failures: int
    until_s: float
    reason: str


ConfigKey = tuple[ModelName, int, Batching]
"""Model, instances and batching: what a load can fail for."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The configs that failed, by what they were; immutable."""

    entries: Mapping[ConfigKey, QuarantineEntry] = field(default_factory=dict)

    def entry(self, key: ConfigKey, *, now_s: float) -> QuarantineEntry | None:
        """Return why a config must not be tried now, None when it may."""
        found = self.entries.get(key)
        return found if found is not None and now_s < found.until_s else None

    def at(self, now_s: float) -> Mapping[ConfigKey, QuarantineEntry]:
        """Return the entries that still hold."""
        return {key: entry for key, entry in self.entries.items() if now_s < entry.until_s}

    def fail(self, key: ConfigKey, reason: str, *, now_s: float, first_s: float, max_s: float) -> Quarantine:
        """Return the quarantine after one more failure."""
        old = self.entries.get(key)
        if old is not None and now_s - old.until_s >= max_s:
            old = None
        failures = 1 if old is None else old.failures + 1
        delay_s = min(max_s, first_s * 2.0 ** min(failures - 1, 30))
        # What was over so long ago that it would begin anew is forgotten.
        kept = {k: entry for k, entry in self.entries.items() if now_s - entry.until_s < max_s}
        return replace(self, entries={**kept, key: QuarantineEntry(failures, now_s + delay_s, reason)})

    def pardon(self, model: ModelName) -> Quarantine:
        """Return the quarantine after any load of the model succeeded: what was wrong with it is over."""
        return replace(self, entries={k: entry for k, entry in self.entries.items() if k[0] != model})
