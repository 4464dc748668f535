"""What a fit keeps on disk, so that an interruption costs at most a minute of it.

A run has a folder: ``settings.json`` says what is fitted to what, ``evolution.json`` holds every generation's utilities
(its search is deterministic, so replaying them brings it to where it was), ``ppo.pt`` and ``ppo-evolved.pt`` actor,
critic and optimiser with the best weights so far, ``log/`` is for TensorBoard. Each file is replaced as a whole.
Nothing is written before there is something to keep, and all but the log are gone when the fit has ended.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically


class RunFolder:
    """The folder of a run; ``restart`` forgets one that was interrupted.

    Raises:
        ConfigError: when it can't be made, holds a run that is not to be resumed, or one of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool, restart: bool = False) -> None:
        self.path = path
        if restart and not resume:
            self.end()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"can't make the folder {path} ({exc.strerror}); give another") from exc
        self._settings: Any = json.loads(json.dumps(settings))
        known, wanted = self.read("settings"), self._settings
        if known is None:
            return
        if not resume:
            raise ConfigError(f"{path} holds a run already; resume it with --resume, or give another --run")
        other = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        if other:
            raise ConfigError(
                f"the run in {path} was begun with other settings ({', '.join(other)}); give the same, or another --run"
            )

    def end(self) -> None:
        """Forget how far the run has come, so that another may begin here."""
        for path in (self.path / "settings.json", self.path / "evolution.json", *self.path.glob("*.pt")):
            path.unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        """Return the JSON value of that name; None when there is none."""
        path = self.path / f"{name}.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise ConfigError(f"can't resume from {path} ({exc}); remove the folder to begin anew") from exc

    def write(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._keep_settings()
        write_atomically(self.path / f"{name}.json", json.dumps(value, indent=1) + "\n")

    def read_state(self, name: str) -> dict[str, Any] | None:
        """Return the state of a learner of that name; None when there is none."""
        import torch

        path = self.path / f"{name}.pt"
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception as exc:  # torch raises a dozen kinds for a damaged file
            raise ConfigError(f"can't resume from {path} ({exc}); remove the folder to begin anew") from exc
        return found

    def write_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a learner under a name."""
        import torch

        self._keep_settings()
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(self.path / f"{name}.pt", buffer.getvalue())

    def _keep_settings(self) -> None:
        write_atomically(self.path / "settings.json", json.dumps(self._settings, indent=1) + "\n")
