"""What a local fleet leaves on disk: which processes it is, and how to reach them.

Files are replaced atomically; a reader sees the old or the new state.
"""

import errno
import os
import shlex
import stat
import tempfile
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

_MOST_LINKS = 8
_REMEDY = "give another with --state-dir"

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


def default_state_directory() -> Path:
    """Return the default state directory of this process.

    Raises:
        ConfigError: Nothing temporary can be written, as in a container with a read-only file system.
    """
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError as exc:
        raise ConfigError("there is no temporary directory that can be written; set TMPDIR to one") from exc
    return choose_state_directory(os.environ, temporary, os.getuid())


def prepare_directory(directory: Path, *, remedy: str = _REMEDY) -> None:
    """Create the state directory, for its owner only; raises ConfigError when it can't be used, as check_directory."""
    check_directory(directory, remedy=remedy)
    try:
        for path in (*reversed(directory.absolute().parents), directory):
            if not path.exists():
                path.mkdir(mode=0o700, exist_ok=True)
        check_directory(directory, remedy=remedy)  # somebody may have been quicker
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as exc:
        raise ConfigError(f"can't use state directory {directory}: {exc.strerror}; {remedy}") from exc


def check_directory(directory: Path, *, remedy: str = _REMEDY) -> None:
    """Check that nobody else can put anything into a state directory, as far as it exists, or in its place.

    Whoever could would choose what we write to and whom we signal. So it must be a directory of this user that only
    this user may write to. On the way there nothing, links included, may belong to anybody but this user and root, and
    where everybody may write, as in /tmp, only a sticky directory keeps others from replacing what is ours.

    Raises:
        ConfigError: Says what somebody else could do.
    """
    problem = _find_problem(directory.absolute(), is_last=True)
    if problem is not None:
        raise ConfigError(
            f"can't use state directory {directory}: {problem}, so others may steer what is written and ended by it; "
            f"{remedy}"
        )


def _find_problem(directory: Path, *, is_last: bool, links: int = 0) -> str | None:
    trusted = {0, os.getuid(), os.stat("/").st_uid}  # in a container root may have another number
    for path in (*reversed(directory.parents), directory):
        is_last_part = is_last and path == directory
        try:
            status = path.lstat()
        except OSError:
            return None  # there is nothing yet; what else is wrong shows when it is made
        if status.st_uid != os.getuid() if is_last_part else status.st_uid not in trusted:
            return f"{path} belongs to user {status.st_uid}"
        if stat.S_ISLNK(status.st_mode):
            if is_last_part or links == _MOST_LINKS:
                return f"{path} is a symbolic link"
            problem = _find_problem(path.parent / path.readlink(), is_last=False, links=links + 1)
            if problem is not None:
                return problem
            continue
        others_may = stat.S_IMODE(status.st_mode) & (0o022 if is_last_part else 0o002)
        if others_may and (is_last_part or not status.st_mode & stat.S_ISVTX):
            return f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):o})"
    return None


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


def command_down(directory: Path) -> str:
    """Return the command that ends the local fleet of a state directory."""
    return f"slimsched local down --state-dir {shlex.quote(str(directory))}"


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
