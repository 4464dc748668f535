"""What a local fleet leaves on disk: which processes it is, and how to reach them.

A process is named by its id and its start time, because ids are reused: a state file that survived a crash or a
reboot must never make us signal a stranger. Files are replaced atomically; a reader sees the old or the new state.
"""

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically

SUPERVISOR_FILE = "supervisor.json"
STATE_FILE = "state.json"
ERROR_FILE = "error.txt"
LOCK_FILE = "lock"
SUPERVISOR_LOG = "supervisor.log"
FLEET_FILE = "fleet.yaml"
FLEET_MARK = "# written by 'slimsched local up'"

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that can't be mistaken for a later one with the same id.

    Attributes:
        pid: Process id.
        start_ticks: Start time in clock ticks since boot, as /proc tells it.
    """

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Return whether exactly this process still runs; a zombie does not."""
        return read_identity(self.pid) == self


def read_identity(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process; None when there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else ProcessIdentity(pid, int(fields[19]))


@dataclass(frozen=True, slots=True)
class LocalServer:
    """One server of a local fleet.

    Attributes:
        name: Its name in fleet.yaml.
        grpc: Host and port of its gRPC endpoint.
        http: Host and port of its HTTP endpoint.
        metrics: URL of its Prometheus endpoint.
        controller: Host and port that a controller of it is to answer at; free when the fleet came up, held by nobody.
        repository: Absolute path of the model repository it serves.
        process: tritonserver itself.
        slowdown: Emulated slow-down; 1 when it is as fast as this machine.
        cpus: CPUs it is bound to; None when it is not.
        log: Its log file.
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


def choose_state_directory(environment: Mapping[str, str], temporary_directory: str, user_id: int) -> Path:
    """Return the default state directory: below $XDG_RUNTIME_DIR, else a private one of this user."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "slimsched"
    return Path(temporary_directory) / f"slimsched-{user_id}"


def prepare_directory(directory: Path) -> None:
    """Create the state directory, for its owner only.

    Raises:
        ConfigError: It can't be created, or belongs to someone else, who could then steer what we signal.
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
    write_atomically(directory / SUPERVISOR_FILE, json.dumps(asdict(identity)))


def read_supervisor(directory: Path) -> ProcessIdentity | None:
    """Return the recorded supervisor, alive or not; None when none is recorded.

    Raises:
        ConfigError: The file is damaged.
    """
    return _read(directory / SUPERVISOR_FILE, lambda values: ProcessIdentity(**values))


def read_servers(directory: Path) -> tuple[LocalServer, ...]:
    """Return the recorded servers; empty when the fleet never became ready.

    Raises:
        ConfigError: The file is damaged.
    """
    servers = _read(directory / STATE_FILE, lambda values: tuple(map(_decode_server, values["servers"])))
    return servers or ()


def write_servers(directory: Path, servers: tuple[LocalServer, ...]) -> None:
    """Record the servers; from now on the fleet counts as ready."""
    write_atomically(directory / STATE_FILE, json.dumps({"servers": [asdict(server) for server in servers]}, indent=2))


def _decode_server(entry: dict[str, Any]) -> LocalServer:
    cpus = entry["cpus"]
    return LocalServer(
        **{**entry, "process": ProcessIdentity(**entry["process"]), "cpus": None if cpus is None else tuple(cpus)}
    )


def _read(path: Path, decode: Callable[[Any], Decoded]) -> Decoded | None:
    try:
        return decode(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"can't use {path} ({type(exc).__name__}: {exc}); end what runs, then remove its directory"
        ) from exc


def remove_state(directory: Path) -> None:
    """Forget the fleet; logs stay for whoever wants to know what happened."""
    for name in (STATE_FILE, FLEET_FILE, SUPERVISOR_FILE, ERROR_FILE):
        (directory / name).unlink(missing_ok=True)
