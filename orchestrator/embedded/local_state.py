"""What a local fleet leaves on disk: which processes it is, and how to reach them.

Files are replaced atomically; a reader sees the old or the new state.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.processes.process_table import ProcessIdentity

SUPERVISOR_FILE = "supervisor.json"
STATE_FILE = "state.json"
LOCK_FILE = "lock"
SUPERVISOR_LOG = "supervisor.log"
FLEET_FILE = "fleet.yaml"
FLEET_MARK = "# written by 'slimsched local up'"

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class LocalServer:
    """One server of a local fleet.

    Attributes:
        name: Its name in fleet.yaml.
        metrics: URL of its Prometheus endpoint; ``grpc`` and ``http`` are host and port.
        controller: Host and port that a controller of it is to answer at; free when the fleet came up, held by nobody.
        repository: Absolute path of the model repository it serves.
        process: tritonserver itself.
        slowdown: Emulated slow-down; 1 when it is as fast as this machine.
        cpus: CPUs it is bound to; None when it is not.
    """

    name: str
    grpc: str
    http: str
    metrics: str
    controller: str
    repository: str
    process: ProcessIdentity
    slowdown: float
    cpus: tuple[int, ...] | None
    log: str

    @property
    def is_running(self) -> bool:
        """Whether tritonserver still runs."""
        return self.process.is_alive()


def choose_state_directory(environment: Mapping[str, str], temporary_directory: str, user_id: int) -> Path:
    """Return the default state directory: below $XDG_RUNTIME_DIR, else a private one of this user."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "slimsched"
    return Path(temporary_directory) / f"slimsched-{user_id}"


def prepare_directory(directory: Path) -> None:
    """Create the state directory, for its owner only.

    Raises ConfigError when it can't be used, or is someone else's, who could then steer what we signal.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
        if owner == os.getuid() and not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as exc:
        raise ConfigError(
            f"can't use state directory {directory}: {exc.strerror}; give another with --state-dir"
        ) from exc
    if owner != os.getuid():
        raise ConfigError(f"state directory {directory} belongs to user {owner}; give another with --state-dir")


def write_supervisor(directory: Path, identity: ProcessIdentity) -> None:
    """Record which process the supervisor is."""
    write_atomically(directory / SUPERVISOR_FILE, _SUPERVISOR.dump_json(identity).decode())


def read_supervisor(directory: Path) -> ProcessIdentity | None:
    """Return the recorded supervisor, alive or not, None when none is; raises ConfigError when the file is damaged."""
    return _read(directory / SUPERVISOR_FILE, _SUPERVISOR)


def write_servers(directory: Path, servers: tuple[LocalServer, ...]) -> None:
    """Record the servers; from now on the fleet counts as ready."""
    write_atomically(directory / STATE_FILE, _SERVERS.dump_json(_Servers(servers), indent=2).decode())


def read_servers(directory: Path) -> tuple[LocalServer, ...]:
    """Return the recorded servers, none before the fleet was ready; raises ConfigError when the file is damaged."""
    state = _read(directory / STATE_FILE, _SERVERS)
    return () if state is None else state.servers


def remove_state(directory: Path) -> None:
    """Forget the fleet; logs stay for whoever wants to know what happened."""
    for name in (STATE_FILE, FLEET_FILE, SUPERVISOR_FILE):
        (directory / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Servers:
    servers: tuple[LocalServer, ...]


_SUPERVISOR = TypeAdapter(ProcessIdentity)
_SERVERS = TypeAdapter(_Servers)


def _read(path: Path, adapter: TypeAdapter[State]) -> State | None:
    try:
        return adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"can't use {path} ({type(exc).__name__}: {exc}); end what runs, then remove its directory"
        ) from exc
