"""The policy in force in a running router, and the way of a new one to its place.

A policy's file that changes is read again, and what it holds is a candidate: it decides in the shadow first, then in a
part of the time, and is in force once it was surely not worse there. One that is surely worse, or whose breaker opens,
is given up, and is not tried again until the file changes once more. The rules are in orchestrator.router.rollout;
here they meet files, clocks and requests, once a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.config import RouterSettings
from orchestrator.config.rollout import RolloutSettings
from orchestrator.errors import ConfigError
from orchestrator.files import Stamp, read_file, stamp_of, write_atomically
from orchestrator.policies.learned.policy import FITTED, LearnedPolicy
from orchestrator.policies.learned.policy_file import LEARNED_NAMES
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Policy
from orchestrator.router.dispatch.deciders import Deciders, in_shadow, make_deciders, on_trial, policy_of
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Answer, PendingRequest
from orchestrator.router.rollout import record, stages
from orchestrator.router.rollout.evidence import Evidence
from orchestrator.router.rollout.split import Ledger, Split
from orchestrator.router.rollout.standing import Standing
from orchestrator.router.rollout.worth import Scale, scale_of
from orchestrator.router.servers.fleet import Fleet
from orchestrator.snapshot import Family

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
_LOOKS_OF_A_WRITER: Final = 3
"""For so many it may not be there, as while it is written anew."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A policy as it was read; ``data`` is empty for one of no file."""

    policy: Policy
    data: bytes = b""

    @property
    def digest(self) -> str:
        return record.digest(self.data) if self.data else ""


class LivePolicy:
    """Who decides now, with ``unix_clock`` for seconds since 1970; ``look`` goes on.

    Attributes:
        deciders: Who decides.
        rollout: Where the candidate stands, also one that was given up; None: the file is in force, or there is none.

    Raises:
        ConfigError: as ``make_deciders``.
    """

    deciders: Deciders
    rollout: stages.Rollout | None
    _candidate: _Loaded | None
    _stamp: Stamp
    _looks_without_file: int = 0
    _record_stamp: Stamp

    def __init__(
        self,
        settings: RouterSettings,
        fleet: Fleet,
        observer: RouterObserver,
        *,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._observer = observer
        self._unix_clock = unix_clock
        self._in_force = _Loaded(parse_policy(settings.guard.fallback))
        self._since_unix_s, self._why = 0.0, ""
        self._begin()

    def check(self, settings: RouterSettings) -> None:
        """Raise ConfigError, as ``make_deciders``, where ``reconfigure`` would."""
        in_force = self._in_force if self._goes_on(settings) else self._find(settings)[0]
        make_deciders(settings, self._observer, in_force.policy)

    def reconfigure(self, settings: RouterSettings) -> None:
        """Go on with other settings; a rollout goes on unless they are about another policy or file."""
        goes_on, self._settings = self._goes_on(settings), settings
        self._open() if goes_on else self._begin()

    def _goes_on(self, settings: RouterSettings) -> bool:
        """Return whether the same file is rolled out by other settings; all else takes effect at once."""
        same = (settings.policy, settings.policy_file) == (self._settings.policy, self._settings.policy_file)
        return same and _is_rolled_out(settings) and _is_rolled_out(self._settings)

    async def watch(self) -> None:
        """Look once in a while, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Take a file that has changed, and what other processes found; move on when it is time."""
        path, settings = self._settings.policy_file, self._settings.rollout
        if path is None or settings is None or not _is_rolled_out(self._settings):
            return
        stamp = stamp_of(path)
        self._looks_without_file = 0 if stamp is not None else self._looks_without_file + 1
        if self._looks_without_file == _LOOKS_OF_A_WRITER:
            log.warning("%s is kept in force: there is no policy file %s any more", self._in_force.policy.name, path)
        if stamp not in (self._stamp, None):
            self._stamp = stamp
            self._take_file(path)
        if self.rollout is None:
            return
        if (stamp := stamp_of(record.record_path(path))) != self._record_stamp:
            self._record_stamp, written = stamp, record.read_record(path)
            self._move(stages.reconcile(self.rollout, written), is_written=True)
            if written is None or (written.candidate == self.rollout.candidate and written != self.rollout):
                self._write_record(path, self.rollout)
        if self.rollout.verdict is stages.Verdict.ROLLING and self._candidate is not None:
            self._move(self._advance(self.rollout, settings))

    # --- what requests come to ---

    def note_arrival(self, at_s: float) -> None:
        """Note a request that came then, on the event loop's clock."""
        if self._ledger is not None:
            self._ledger.note_arrival(at_s + self._offset_s)

    def note_answer(self, request: PendingRequest, answer: Answer) -> None:
        """Note the answer of a request."""
        if self._ledger is None or not answer.deadline_met or request.family is None:
            return
        item_j = None if answer.energy_j is None else answer.energy_j / request.items
        worth = self._scale(request.family).worth(answer.expected_accuracy, item_j)
        self._ledger.note_worth(request.arrived_s + self._offset_s, worth)

    def _scale(self, family: Family) -> Scale:
        if family not in self._scales:
            servers = self._fleet.servers.values()
            served = [(server.name, model) for server in servers for model in server.served if model.family == family]
            self._scales[family] = scale_of(
                served, self._fleet.times.energy, energy_weight=self._settings.energy_weight
            )
        return self._scales[family]

    # --- where it stands ---

    @property
    def standing(self) -> Standing:
        """What is in force since when and why."""
        found = Standing(self._in_force.policy.name, self._since_unix_s, self._why)
        rollout, settings = self.rollout, self._settings.rollout
        if rollout is None or settings is None or rollout.verdict is stages.Verdict.IN_FORCE:
            return found
        return replace(
            found,
            candidate=self._candidate_name,
            stage=rollout.describe(settings.shares),
            share=rollout.share(settings.shares),
            candidate_since_unix_s=rollout.since_unix_s,
            candidate_why=f"{rollout.why}; so far {self._evidence}" if self._evidence.blocks > 2 else rollout.why,
        )

    def _begin(self) -> None:
        """Find out what is in force, and what is on trial, by the settings and the files."""
        settings, before = self._settings, self._in_force
        in_force, candidate, rollout = self._find(settings)
        if rollout is not None and rollout.verdict is stages.Verdict.IN_FORCE:
            self._since_unix_s, self._why = rollout.since_unix_s, rollout.why
        elif rollout is not None and rollout.before_why:
            self._since_unix_s, self._why = rollout.before_since_unix_s, rollout.before_why
        elif not self._why or (in_force.policy.name, in_force.digest) != (before.policy.name, before.digest):
            named = "policy_file" if in_force.data else "policy" if rollout is None else "guard.fallback"
            self._since_unix_s, self._why = self._unix_clock(), f"it is what router.{named} named then"
        self._stamp = None if settings.policy_file is None else stamp_of(settings.policy_file)
        self._record_stamp = None
        self._in_force, self._candidate, self.rollout = in_force, candidate, rollout
        self._candidate_name = "" if candidate is None else candidate.policy.name
        self._open()

    def _find(self, settings: RouterSettings) -> tuple[_Loaded, _Loaded | None, stages.Rollout | None]:
        """Return what is in force by settings and files, what is on trial or given up, and where that stands."""
        path = settings.policy_file
        if path is None or not _is_of_file(settings):
            return _Loaded(policy_of(settings.policy, settings)), None, None
        if not _is_rolled_out(settings):
            return self._load(path, settings), None, None
        try:
            kept: _Loaded | None = self._load(record.kept_path(path), settings)
        except ConfigError:
            kept = None
        try:
            file = self._load(path, settings)
        except ConfigError as exc:
            if kept is None:
                raise
            log.warning("%s; the policy that was in force before stays", exc)
            return kept, None, None
        kept_digest = None if kept is None else kept.digest
        source, rollout = stages.resume(file.digest, kept_digest, record.read_record(path), unix_s=self._unix_clock())
        if source is stages.Source.FILE:
            return file, None, rollout
        if source is stages.Source.FALLBACK or kept is None:
            log.warning("the policy in force beside %s is lost; %s is", path, settings.guard.fallback)
            return _Loaded(parse_policy(settings.guard.fallback)), file, rollout
        return kept, _apart(file, kept), rollout

    def _load(self, path: Path, settings: RouterSettings) -> _Loaded:
        """Return the policy of a file; raises ConfigError when it can't be used, or is just being replaced."""
        try:
            data = read_file(path, most_bytes=record.MOST_POLICY_BYTES)
            policy = policy_of(settings.policy, settings.model_copy(update={"policy_file": path}))
            is_whole = read_file(path, most_bytes=record.MOST_POLICY_BYTES) == data
        except OSError as exc:
            raise ConfigError(f"can't read the policy {path} ({exc.strerror}); check router.policy_file") from exc
        if not is_whole:
            raise ConfigError(f"{path} was replaced while it was read; try again")
        make_deciders(settings, self._observer, policy)  # raises where it can't be bound so
        return _Loaded(policy, data)

    def _open(self) -> None:
        """Let those decide who are to by where the candidate stands."""
        settings, rollout, candidate = self._settings, self.rollout, self._candidate
        deciders = make_deciders(settings, self._observer, self._in_force.policy)
        self._evidence, self._ledger = Evidence(), None
        self._scales: dict[Family, Scale] = {}
        self._offset_s, self._turn = 0.0, (-1, False)
        if settings.rollout is not None and rollout is not None and candidate is not None:
            if rollout.verdict is stages.Verdict.ROLLING and rollout.stage == 0:
                shadow = in_shadow(candidate.policy, deciders.policies, settings, self._observer)
                deciders = replace(deciders, shadow=shadow)
            elif rollout.verdict is stages.Verdict.ROLLING:
                deciders = on_trial(deciders, candidate.policy, self._decides, settings, self._observer)
                now_s = self._unix_clock()
                slot_s = settings.rollout.slot_s or max(1.0, settings.deadline_ms / 100)
                share = rollout.share(settings.rollout.shares)
                self._ledger = Ledger(Split(rollout.candidate, share, slot_s, now_s))
                self._offset_s = now_s - asyncio.get_running_loop().time()
        self.deciders = replace(deciders, standing=self.standing.told())

    def _decides(self, now_s: float) -> bool:
        """Return whether the candidate decides now, on the event loop's clock."""
        assert self._ledger is not None
        slot = self._ledger.split.slot_at(now_s + self._offset_s)
        if slot != self._turn[0]:
            self._turn = slot, self._ledger.split.is_candidates(slot)
        return self._turn[1]

    def _take_file(self, path: Path) -> None:
        """Begin to roll out what the file holds now, if that is neither in force nor was tried."""
        try:
            file = self._load(path, self._settings)
        except ConfigError as exc:
            log.warning("%s is kept in force: %s", self._in_force.policy.name, exc)
            return
        if self.rollout is not None and file.digest == self.rollout.candidate:
            return
        if file.digest == self._in_force.digest:
            self._candidate = self.rollout = None
            self._open()
            log.info("%s holds the policy in force again", path)
            return
        self._candidate = _apart(file, self._in_force)
        self._candidate_name = self._candidate.policy.name
        found = stages.Rollout(
            file.digest,
            self._unix_clock(),
            f"{path} has changed",
            before_since_unix_s=self._since_unix_s,
            before_why=self._why,
        )
        stands = stages.reconcile(found, record.read_record(path))
        if stands.verdict is stages.Verdict.ROLLING and self._in_force.data:
            self._write(record.kept_path(path), self._in_force.data)
        self._move(stands, is_written=stands is not found)

    def _advance(self, rollout: stages.Rollout, settings: RolloutSettings) -> stages.Rollout:
        """Return where the candidate is to stand by what is known now."""
        unix_s, loop_s = self._unix_clock(), asyncio.get_running_loop().time()
        deciders, self._scales = self.deciders, {}
        guards = [deciders.shadow] if deciders.trial is None else list(deciders.trial.policies.values())
        if any(guard is not None and guard.is_paused(loop_s) for guard in guards):
            return rollout.returned(f"it failed too often in the {rollout.describe(settings.shares)}", unix_s)
        if self._ledger is None:
            outcomes = {} if deciders.shadow is None else deciders.shadow.outcomes
            return stages.leave_shadow(rollout, settings, outcomes, unix_s=unix_s)
        for difference, requests in self._ledger.take_ended(loop_s + self._offset_s):
            self._evidence = self._evidence.added(difference, requests)
        return stages.leave_share(rollout, settings, self._evidence, unix_s=unix_s)

    def _move(self, rollout: stages.Rollout, *, is_written: bool = False) -> None:
        """Let the candidate stand elsewhere, and write it unless somebody else has."""
        if rollout == self.rollout:
            return
        path, candidate, settings = self._settings.policy_file, self._candidate, self._settings.rollout
        assert path is not None and settings is not None, "only a file is rolled out"
        self.rollout = rollout
        log.log(
            logging.WARNING if rollout.verdict is stages.Verdict.RETURNED else logging.INFO,
            "policy %s, in place of %s: %s, because %s",
            self._candidate_name,
            self._in_force.policy.name,
            rollout.describe(settings.shares),
            rollout.why,
        )
        if rollout.verdict is stages.Verdict.IN_FORCE and candidate is not None:
            self._in_force, self._since_unix_s, self._why = candidate, rollout.since_unix_s, rollout.why
            if not is_written:
                self._write(record.kept_path(path), candidate.data)
        if rollout.verdict is not stages.Verdict.ROLLING:
            self._candidate = None
        if not is_written:
            self._write_record(path, rollout)
        self._open()

    def _write_record(self, path: Path, rollout: stages.Rollout) -> None:
        try:
            record.write_record(path, rollout)
        except OSError as exc:
            log.warning("it is not written where the rollout of %s stands (%s)", path, exc.strerror)
        self._record_stamp = stamp_of(record.record_path(path))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OSError as exc:
            log.warning("can't keep the policy in force in %s (%s); a restart would lose it", path, exc.strerror)


def _is_of_file(settings: RouterSettings) -> bool:
    """Return whether the policy is what ``policy_file`` holds, where there is one."""
    return settings.policy.partition(",")[0] in (FITTED, *LEARNED_NAMES)


def _is_rolled_out(settings: RouterSettings) -> bool:
    """Return whether the policy is of a file, and that is rolled out when it changes."""
    return settings.rollout is not None and settings.policy_file is not None and _is_of_file(settings)


def _apart(file: _Loaded, in_force: _Loaded) -> _Loaded:
    """Return a candidate by a name of its own, by which it remembers and is counted."""
    policy = file.policy
    if isinstance(policy, LearnedPolicy) and policy.name == in_force.policy.name:
        return replace(file, policy=LearnedPolicy(policy.file, name=f"{policy.name}@{file.digest[:7]}"))
    return file
