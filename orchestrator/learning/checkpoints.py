"""What a training run keeps on disk, so that an interruption costs at most a minute of it.

A run has a folder: ``settings.json``, ``best.npz`` (the policy that validated best so far), ``log/`` for TensorBoard,
the demonstrations of rounds of cloning while there are more to come, and two checkpoints that take turns, of which
``state.json`` names the one that is whole: the model by stable-baselines3's own save, and the curriculum. A resumed run
goes on with new random numbers, so it does not repeat an uninterrupted one; a run from the beginning does, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.learning.vector_env import Ranges


@dataclass(slots=True)
class RunState:
    """How far a run has come.

    Attributes:
        cloned: rounds of cloning that are done.
        best: validation score of ``best.npz``; minus infinity before there is one.
        since_best: validations since then.
        low, high: the range of each feature that was seen.
        slot: which of the two checkpoints is whole.
    """

    steps: int = 0
    cloned: int = 0
    best: float = float("-inf")
    since_best: int = 0
    curriculum: Mapping[str, Any] = field(default_factory=dict)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    slot: int = 0


class RunFolder:
    """The folder of a run, made when it is not there; raises ConfigError when it can't be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"can't make the folder {path} ({exc.strerror}); give another") from exc

    @property
    def best(self) -> Path:
        """The file of the policy that validated best."""
        return self.path / "best.npz"

    def model(self, slot: int) -> Path:
        """The file with the model of a checkpoint."""
        return self.path / f"model-{slot}.zip"

    def demonstrations(self, turn: int) -> Path:
        """The file with the demonstrations of a round of cloning, kept until all rounds are done."""
        return self.path / f"lessons-{turn}.npz"

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> RunState | None:
        """Return the state to resume from, None for a run from the beginning.

        Raises:
            ConfigError: when there is a run that is not to be resumed, or it was begun with other settings.
        """
        kept = self.path / "settings.json"
        state = self._read_state()
        if kept.exists() and not resume:
            raise ConfigError(f"{self.path} holds a run already; resume it with --resume, or give another --run")
        if state is None:
            _write(kept, settings)
            return None
        known = json.loads(kept.read_text())
        other = [key for key in settings if key != "steps" and known.get(key) != json.loads(json.dumps(settings[key]))]
        if other:
            raise ConfigError(
                f"the run in {self.path} was begun with other settings ({', '.join(other)}); give the same, or another "
                "--run"
            )
        return state

    def keep(self, model: Any, state: RunState, ranges: Ranges) -> None:
        """Write a checkpoint; the one before stays whole until this one is."""
        state.slot = 1 - state.slot
        state.low, state.high = [float(v) for v in ranges.low], [float(v) for v in ranges.high]
        model.save(self.model(state.slot))
        _write(self.path / "state.json", asdict(state))

    def _read_state(self) -> RunState | None:
        path = self.path / "state.json"
        if not path.exists():
            return None
        try:
            return RunState(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as exc:
            raise ConfigError(f"can't resume from {path} ({exc}); remove the folder to begin anew") from exc


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(values, indent=1) + "\n")
