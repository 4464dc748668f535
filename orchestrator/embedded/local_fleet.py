"""Several embedded servers in the background: up, status, down.

The fleet belongs to a supervisor process (see `local_supervisor`) that outlives the command which started it. All
that later commands know is in the state directory (see `local_state`), and is believed only as far as the processes
named there still live.
"""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.embedded import local_state, local_supervisor
from orchestrator.embedded.local_state import LocalServer
from orchestrator.embedded.local_supervisor import FleetRequest
from orchestrator.embedded.wheel import locate_wheel
from orchestrator.errors import ConfigError, EmbeddedServerError
from orchestrator.processes.process_table import ProcessIdentity

STOP_TIMEOUT_S = 30.0  # a server's exit timeout, its kill margin and the reaping of its stubs, with room to spare


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What is known of a local fleet; without its supervisor the state is stale, and its servers are going or gone.

    There are no servers while it is starting.
    """

    supervisor: ProcessIdentity
    is_running: bool
    servers: tuple[LocalServer, ...]
    fleet_path: Path


def read_status(directory: Path) -> FleetStatus | None:
    """Return what is known of the fleet, None when there is none; raises ConfigError when that is damaged."""
    local_state.check_directory(directory)
    supervisor = local_state.read_supervisor(directory)
    if supervisor is None:
        return None
    servers, fleet_path = local_state.read_servers(directory), directory / local_state.FLEET_FILE
    return FleetStatus(supervisor, supervisor.is_alive(), servers, fleet_path)


def start_fleet(request: FleetRequest, directory: Path) -> FleetStatus:
    """Start a fleet, wait until every server is ready, and return what it is.

    All or nothing: when one server fails, or this call is interrupted, all are taken down.

    Raises:
        ConfigError: The request can't be fulfilled as it is, or a fleet is running already.
        EmbeddedServerError: A server failed; the message names it and its reason.
    """
    for server in request.make_servers(directory).values():
        server.check()
    locate_wheel()
    local_state.prepare_directory(directory)
    status = read_status(directory)
    if status is not None and status.is_running:
        raise ConfigError(
            f"a local fleet is already running in {directory}; end it by '{local_state.command_down(directory)}', "
            "or give another --state-dir"
        )
    with _start_supervisor(request, directory) as process:
        # Leaving this block closes its standard input. Unless MAY_STAY was written there, the supervisor
        # then takes everything down, whatever befell this process.
        try:
            _wait_ready(process, directory)
            status = read_status(directory)
            assert status is not None, "it is ready"
        except BaseException:
            stop_fleet(directory)
            raise
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile, as it may be at any time from now on
            process.stdin.write(local_supervisor.MAY_STAY)
            process.stdin.flush()
    return status


def stop_fleet(directory: Path) -> FleetStatus | None:
    """Take the fleet down and forget it; return what it was, or None when there was none. Idempotent.

    Raises:
        ConfigError: The state on disk is damaged.
        EmbeddedServerError: A process is still there after all that could be done.
    """
    status = read_status(directory)
    if status is None:
        return None
    status.supervisor.end(STOP_TIMEOUT_S)
    # The guardians end the servers even when the supervisor was killed; give them the time.
    for server in status.servers:
        if not server.process.wait_gone(STOP_TIMEOUT_S):
            raise EmbeddedServerError(f"{server.name} (process {server.process.pid}) does not end; kill -9 it yourself")
    local_state.remove_state(directory)
    return status


def check_copy_target(path: Path) -> None:
    """Raise ConfigError unless fleet.yaml may be copied here: the place is free, or holds an earlier copy."""
    try:
        is_ours = path.read_text().startswith(local_state.FLEET_MARK)
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"can't write {path}: its folder is missing or read-only; give another --fleet") from None
        return
    except (OSError, UnicodeDecodeError):
        is_ours = False
    if not is_ours:
        raise ConfigError(f"{path} was not written by 'slimsched local up'; give another --fleet or move it away")


def copy_fleet_file(status: FleetStatus, path: Path) -> None:
    """Copy the fleet's fleet.yaml; raises ConfigError when that can't be done, or would overwrite what is not ours."""
    check_copy_target(path)
    try:
        path.write_text(status.fleet_path.read_text())
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc.strerror}); the fleet file is {status.fleet_path} too") from exc


def _start_supervisor(request: FleetRequest, directory: Path) -> subprocess.Popen[bytes]:
    # Run from a source tree too, where the package is importable only through our own sys.path.
    root = str(Path(local_supervisor.__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    return subprocess.Popen(
        [sys.executable, "-m", local_supervisor.__name__, str(directory), local_supervisor.REQUEST.dump_json(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def _wait_ready(process: subprocess.Popen[bytes], directory: Path) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    complaints, status = process.stderr.read(), process.wait()  # both end when it has gone into the background
    if status == local_supervisor.ALREADY_RUNNING:
        raise ConfigError(
            f"'slimsched up' runs in {directory}, or another local fleet is starting or ending there; try again in a "
            "moment, or give another --state-dir"
        )
    if status != 0:
        last = (complaints.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise EmbeddedServerError(f"the supervisor of the local fleet failed to start: {last}")
    report = process.stdout.readline().decode().strip()
    if report != local_supervisor.READY:
        log = directory / local_state.SUPERVISOR_LOG
        raise EmbeddedServerError(report or f"the supervisor of the local fleet died while starting; see {log}")
