import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config import parse_fleet
from orchestrator.embedded import local_state
from orchestrator.embedded.local_fleet import read_status, stop_fleet
from orchestrator.embedded.local_state import LocalServer
from orchestrator.embedded.local_supervisor import REQUEST, FleetRequest, render_settings
from orchestrator.errors import ConfigError
from orchestrator.processes.process_table import ProcessIdentity

DEAD = ProcessIdentity(pid=2**22 + 1, start_ticks=1)


def build_server(name: str = "local-0", slowdown: float = 1.0, port: int = 1) -> LocalServer:
    return LocalServer(
        name=name,
        grpc=f"127.0.0.1:{port}",
        http=f"127.0.0.1:{port + 1}",
        metrics=f"http://127.0.0.1:{port + 2}/metrics",
        controller=f"127.0.0.1:{port + 3}",
        repository="/models",
        process=DEAD,
        slowdown=slowdown,
        cpus=(0, 1) if slowdown > 1 else None,
        log="/l",
    )


def test_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    servers = (build_server(), build_server("local-1", 3.0, 11))
    local_state.write_servers(tmp_path, servers)
    local_state.write_supervisor(tmp_path, DEAD)
    assert local_state.read_servers(tmp_path) == servers
    assert local_state.read_supervisor(tmp_path) == DEAD
    local_state.remove_state(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert local_state.read_servers(tmp_path) == ()
    assert local_state.read_supervisor(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", '{"servers": [{"name": "a"}]}', "[1]"])
def test_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / local_state.STATE_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"can't use .*state.json"):
        local_state.read_servers(tmp_path)


def test_a_state_directory_is_one_users_closed_to_others_and_refused_where_it_can_not_be_made(tmp_path: Path) -> None:
    choose = local_state.choose_state_directory
    assert choose({"XDG_RUNTIME_DIR": "/run/user/7"}, "/tmp", 7) == Path("/run/user/7/slimsched")
    assert choose({}, "/tmp", 7) == Path("/tmp/slimsched-7")
    local_state.prepare_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"can't use state directory .*; give another with --state-dir"):
        local_state.prepare_directory(tmp_path / "file" / "below")


def test_a_state_directory_that_others_can_steer_is_refused(tmp_path: Path) -> None:
    def refused(directory: Path) -> str:
        for use in (local_state.prepare_directory, read_status, stop_fleet):
            with pytest.raises(ConfigError, match=r"can't use state directory .*; give another with --state-dir") as e:
                use(directory)
        return str(e.value)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(elsewhere)
    assert f"{tmp_path}/link is a symbolic link" in refused(tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    assert "is a symbolic link" in refused(tmp_path / "loop" / "below")
    assert list(elsewhere.iterdir()) == []
    for mode in (0o777, 0o770, 0o1777, 0o702):
        elsewhere.chmod(mode)
        assert f"others may write to {elsewhere} (mode {mode:o})" in refused(elsewhere)
    elsewhere.chmod(0o777)
    assert f"others may write to {elsewhere} (mode 777)" in refused(elsewhere / "below" / "up")
    assert list(elsewhere.iterdir()) == []
    elsewhere.chmod(0o1777)
    local_state.prepare_directory(elsewhere / "below" / "up")
    assert [(elsewhere / name).stat().st_mode & 0o777 for name in ("below", "below/up")] == [0o700, 0o700]
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("elsewhere")
    local_state.prepare_directory(tmp_path / "link" / "through")
    assert (elsewhere / "through").is_dir(), "a link of one's own on the way is followed"
    elsewhere.chmod(0o777)
    assert f"others may write to {elsewhere} (mode 777)" in refused(tmp_path / "link" / "through")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_a_state_directory_of_somebody_else_or_within_one_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 12345, 12345)
    for directory in (theirs, theirs / "up"):
        with pytest.raises(ConfigError, match=f"{theirs} belongs to user 12345"):
            local_state.prepare_directory(directory)
    (tmp_path / "link").symlink_to(tmp_path)
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(ConfigError, match=f"{tmp_path}/link belongs to user 12345"):
        local_state.prepare_directory(tmp_path / "link" / "up")
    assert list(theirs.iterdir()) == []


def test_the_fleet_file_labels_what_is_emulated() -> None:
    fleet = parse_fleet(render_settings((build_server(), build_server("local-1", 3.0, 11))))
    assert [server.name for server in fleet.servers] == ["local-0", "local-1"]
    assert [server.emulated_slowdown for server in fleet.servers] == [None, 3.0]
    assert [server.metrics for server in fleet.servers] == [
        "http://127.0.0.1:3/metrics",
        "http://127.0.0.1:13/metrics",
    ]


def test_the_fleet_file_shows_a_controller_where_it_belongs() -> None:
    fleet = parse_fleet(render_settings((build_server(), build_server("local-1", 3.0, 11))))
    assert [server.controller for server in fleet.servers] == ["127.0.0.1:4", "127.0.0.1:14"]
    assert {server.repository for server in fleet.servers} == {Path("/models")}


def test_a_request_survives_the_pipe() -> None:
    request = FleetRequest(
        repository=Path("/r"), slowdowns=(1.0, 2.5), cpu_sets=(None, frozenset({0, 3})), start_timeout_s=9.5
    )
    assert REQUEST.validate_json(REQUEST.dump_json(request)) == request


def test_a_fleet_that_is_gone_is_stale_and_is_cleaned_up(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    assert stop_fleet(tmp_path) is None
    local_state.write_supervisor(tmp_path, DEAD)
    local_state.write_servers(tmp_path, (build_server(),))
    status = read_status(tmp_path)
    assert status is not None
    assert not status.is_running
    assert [entry.is_running for entry in status.servers] == [False]
    assert stop_fleet(tmp_path) == status
    assert read_status(tmp_path) is None


_IN_THE_BACKGROUND = """
import os, sys
from pathlib import Path
from orchestrator.embedded.local_supervisor import _fork_into_background

directory = Path(sys.argv[1])
report = _fork_into_background(directory)  # what is read ends with this process
print("before", flush=True)
os.truncate(directory / "supervisor.log", 0)
print("after", flush=True)
"""


def test_a_log_of_the_supervisor_that_is_rotated_in_place_goes_on_from_its_begin(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _IN_THE_BACKGROUND, str(tmp_path)], capture_output=True, check=True)
    assert (tmp_path / local_state.SUPERVISOR_LOG).read_bytes() == b"after\n"
