"""What a fit keeps on disk, so that an interruption costs at most a minute of it.

A run has a folder: ``settings.json`` says what is fitted to what, ``rungs.json`` holds every generation's utilities
(the search is deterministic, so replaying them brings it to where it was), ``ppo.pt``, ``ppo-evolved.pt`` and
``ppo-paper.pt`` actor, critic and optimiser with the best weights so far, ``log/`` is for TensorBoard. Each file is
replaced as a whole. Nothing is written before there is something to keep, and all but the log are gone when the fit has
ended. What lies there without ``settings.json`` may be of any fleet, and is not read. A folder that holds anything else
is no run's.
"""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.installed.version import read_version

_SETTINGS: Final = "settings.json"
_KEPT: Final = (_SETTINGS, "rungs.json", "ppo.pt", "ppo-evolved.pt", "ppo-paper.pt")
_LOG: Final = "log"


class RunFolder:
    """The folder of a run; ``restart`` forgets one that was interrupted.

    Raises:
        ConfigError: when it can't be made, or holds other files, a run that is not to be resumed, or one of other
            settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool, restart: bool = False) -> None:
        self.path = path
        _make(path)
        others = sorted(each.name for each in path.iterdir() if each.name not in (*_KEPT, _LOG))
        if others := [name for name in others if not name.startswith(".")]:
            raise ConfigError(f"{path} holds {others[0]}, which is of no run; give an empty folder as --run")
        if restart and not resume:
            self.end()
        self._settings: Any = json.loads(json.dumps({**settings, "version": read_version()}))
        self._is_kept = (path / _SETTINGS).exists()
        if not self._is_kept:
            return
        known, wanted = self.read("settings", dict[str, Any]), self._settings
        if not resume:
            raise ConfigError(f"{path} holds a run already; resume it with --resume, or give another --run")
        other = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        if other:
            remedy = "leave out --resume to begin anew" if restart else "give the same, or another --run"
            raise ConfigError(f"the run in {path} was begun with other settings ({', '.join(other)}); {remedy}")

    def is_kept(self) -> bool:
        """Return whether there is anything to go on from."""
        return self._is_kept

    def end(self) -> None:
        """Forget how far the run has come, so that another may begin here."""
        try:
            for name in _KEPT:
                (self.path / name).unlink(missing_ok=True)
        except OSError as exc:
            raise ConfigError(f"can't remove what the run kept in {self.path} ({exc.strerror}); remove it") from exc
        self._is_kept = False

    def read(self, name: str, kind: Any = Any) -> Any:
        """Return the JSON value of that name, which is to be of a kind; None when there is none."""
        path = self.path / f"{name}.json"
        if not self._is_kept or not path.exists():
            return None
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except ValidationError as exc:
            first = exc.errors()[0]
            why = ": ".join([*map(str, first["loc"]), first["msg"]])
            raise ConfigError(f"can't resume from {path} ({why}); remove the folder to begin anew") from exc
        except OSError as exc:
            raise ConfigError(f"can't resume from {path} ({exc.strerror}); remove the folder to begin anew") from exc

    def write(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._keep(f"{name}.json", json.dumps(value, indent=1) + "\n")

    def read_state(self, name: str) -> dict[str, Any] | None:
        """Return the state of a learner of that name; None when there is none."""
        import torch

        path = self.path / f"{name}.pt"
        if not self._is_kept or not path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(path, weights_only=True)
        except OSError as exc:
            raise ConfigError(f"can't resume from {path} ({exc.strerror}); remove the folder to begin anew") from exc
        except Exception as exc:  # torch raises a dozen kinds for a damaged file, and advises to trust it
            raise ConfigError(f"can't resume from {path} (it is damaged); remove the folder to begin anew") from exc
        return found

    def write_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a learner under a name."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._keep(f"{name}.pt", buffer.getvalue())

    def _keep(self, name: str, content: str | bytes) -> None:
        """Replace a file; the first one after the settings, without what somebody else has left."""
        try:
            if not self._is_kept:
                self.end()
                write_atomically(self.path / _SETTINGS, json.dumps(self._settings, indent=1) + "\n")
                self._is_kept = True
            write_atomically(self.path / name, content)
        except OSError as exc:
            raise _not_kept(self.path, exc) from exc


@contextmanager
def open_run(path: Path, settings: Mapping[str, Any], *, resume: bool, restart: bool = False) -> Iterator[RunFolder]:
    """Hold the folder of a run until the end of the block or of the process; see `RunFolder`.

    Raises:
        ConfigError: likewise, and when somebody else holds it.
    """
    _make(path)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context((path / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another fit is at work in {path}; wait until it has ended") from None
        except OSError as exc:
            raise ConfigError(f"can't write into the folder {path} ({exc.strerror}); give another --run") from exc
        try:
            yield RunFolder(path, settings, resume=resume, restart=restart)
        except OSError as exc:  # of the log, which others write
            raise _not_kept(path, exc) from exc


def _not_kept(path: Path, exc: OSError) -> ConfigError:
    return ConfigError(
        f"can't keep how far the run has come in {path} ({exc.strerror}); make room there, and go on with --resume"
    )


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"can't make the folder {path} ({exc.strerror}); give another --run") from exc
