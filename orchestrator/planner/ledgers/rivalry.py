"""Whether somebody else changes the same Triton: what this controller ordered, and whether it still stands.

Two controllers on one Triton with different settings undo each other for ever. A lease keeps a second one of the same
host away; one on another host shows only by what it does. Triton itself changes no number of instances, so what was
ordered and is no longer so was undone by somebody. Once is an operator's hand, and is put right. When it happens to
the same model again, nothing is changed until all has stood still for a while, which doubles each time: two
controllers that both wait would else begin again together.

A restart of Triton undoes everything too, and is nobody's doing. It shows by its process; where that can't be seen,
all models that are gone at once are taken for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Outcome
from orchestrator.planner.host import HostSnapshot
from orchestrator.snapshot import ModelName

RIVAL_AFTER = 2
"""Changes of one model that have to be undone before somebody else is taken for a rival."""
REMEMBERED_PAUSES = 6.0
"""Age at which a change that was undone is forgotten, in longest pauses; two controllers that wait in turn see each
other's changes two pauses apart."""


@dataclass(frozen=True, slots=True)
class KnownInstances:
    """The instances of a model as last seen or ordered, 0 when it serves nothing; whether this controller wanted so."""

    instances: int
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class Rivalry:
    """What this controller ordered of one Triton, and what somebody else made of it; immutable.

    Attributes:
        last_known: Each model as last seen or ordered; none of one whose last change failed.
        undone_s: When changes of each model were found undone, seconds on the controller's clock, oldest first.
        moved_s: When something was last found changed that this controller had not changed; None: never.
        rival_of: The model over which nothing is changed now; None: this controller has its Triton to itself.
        rounds: How often in a row it stood back.
        server_id: The server process that this is about; None: unknown.
    """

    last_known: Mapping[ModelName, KnownInstances] = field(default_factory=dict)
    undone_s: Mapping[ModelName, tuple[float, ...]] = field(default_factory=dict)
    moved_s: float | None = None
    rival_of: ModelName | None = None
    rounds: int = 0
    server_id: str | None = None

    def quiet_s(self, settings: ControllerSettings) -> float:
        """Return for how long all has to stand still before something is changed again."""
        return min(_longest_quiet_s(settings), settings.rival_quiet_s * 2.0 ** min(30, max(0, self.rounds - 1)))

    def record(self, outcome: Outcome) -> Rivalry:
        """Return the rivalry after an action ended that Triton has seen; what a failed one left is not known."""
        action = outcome.action
        last_known = {name: last for name, last in self.last_known.items() if name != action.model}
        if outcome.error is None:
            last_known[action.model] = KnownInstances(action.instances, is_ordered=True)
        return replace(self, last_known=last_known)

    def follow(self, snapshot: HostSnapshot, settings: ControllerSettings, *, now_s: float) -> Rivalry:
        """Return the rivalry as of a snapshot."""
        seen = {model.name: model.loaded.instances for model in snapshot.models if not snapshot.is_moving(model)}
        if self._is_restarted(snapshot, seen):
            fresh = {name: KnownInstances(instances) for name, instances in seen.items()}
            return replace(self, last_known=fresh, server_id=snapshot.server_id)
        moved = {n for n, count in seen.items() if n in self.last_known and self.last_known[n].instances != count}
        undone = {name for name in moved if self.last_known[name].is_ordered}
        known = {model.name for model in snapshot.models}
        last_known = {name: last for name, last in self.last_known.items() if name in known} | {
            name: KnownInstances(count) for name, count in seen.items() if name not in self.last_known or name in moved
        }
        followed = replace(
            self,
            last_known=last_known,
            undone_s=self._with_undone(undone, settings, now_s),
            moved_s=now_s if moved else self.moved_s,
            server_id=snapshot.server_id or self.server_id,
        )
        return followed._judge(undone, settings, now_s)

    def _is_restarted(self, snapshot: HostSnapshot, seen: Mapping[ModelName, int]) -> bool:
        if snapshot.server_id is not None and self.server_id is not None:
            return snapshot.server_id != self.server_id
        loaded = [name for name, last in self.last_known.items() if last.instances]
        return bool(loaded) and not any(seen.values())

    def _with_undone(
        self, undone: set[ModelName], settings: ControllerSettings, now_s: float
    ) -> Mapping[ModelName, tuple[float, ...]]:
        since_s = now_s - remembered_s(settings)
        names = sorted({*self.undone_s, *undone})
        times = {
            name: (
                *(at_s for at_s in self.undone_s.get(name, ()) if at_s > since_s),
                *((now_s,) if name in undone else ()),
            )
            for name in names
        }
        return {name: times_s[-RIVAL_AFTER:] for name, times_s in times.items() if times_s}

    def _judge(self, undone: set[ModelName], settings: ControllerSettings, now_s: float) -> Rivalry:
        """Return this with the decision whether to stand back, or to try again."""
        if self.rival_of is not None:
            is_quiet = self.moved_s is None or now_s - self.moved_s >= self.quiet_s(settings)
            return replace(self, rival_of=None) if is_quiet else self
        again = sorted(name for name in undone if len(self.undone_s[name]) >= RIVAL_AFTER)
        if again:
            return replace(self, rival_of=again[0], rounds=self.rounds + 1)
        return self if self.undone_s else replace(self, rounds=0)


def remembered_s(settings: ControllerSettings) -> float:
    """Return the age at which a change that was undone is forgotten."""
    return max(REMEMBERED_PAUSES * _longest_quiet_s(settings), 2 * settings.unload_after_s)


def _longest_quiet_s(settings: ControllerSettings) -> float:
    return max(settings.rival_quiet_s, settings.quarantine_max_s)
