"""``slimsched profile`` where no server is needed: what it refuses before it asks one, and what it shows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.research import profile as research_profile
from orchestrator.cli.research.profile import _choose
from orchestrator.config import load_fleet
from orchestrator.profile.document import write_profile
from tests.closed import closed
from tests.profile.profiles import profile_of

FLEET = "servers: [{name: a, grpc: '127.0.0.1:1'}]\nrouter: {connect_timeout_s: 1}\n"


def run(tmp_path: Path, *arguments: object, fleet: str = FLEET) -> tuple[int, str]:
    path = tmp_path / "fleet.yaml"
    path.write_text(fleet)
    result = CliRunner().invoke(main, ["profile", "--fleet", str(path), *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--check", "--show"], 2, "give one of them"),
        (["--force"], 2, "--force goes with --control"),
        (["--requests", "1"], 2, "--requests"),
        (["--precision", "0"], 2, "--precision"),
        (["--server", "z"], 1, "no server 'z' in the fleet; it has a"),
        (["--plot", "p.jpg"], 1, "a picture's name ends in .png"),
        (["--out", "no/folder/profile.json"], 1, "there is no folder no/folder"),
        (["--show", "--out", "no/profile.json"], 1, "no profile at no/profile.json"),
        (["--control"], 1, "servers[a] needs 'repository' and 'metrics' in fleet.yaml"),
        ([], 1, "127.0.0.1:1"),  # nobody listens there
    ],
)
def test_what_can_not_be_done_is_one_line(tmp_path: Path, arguments: list[str], code: int, problem: str) -> None:
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "profile.json")]
    found, output = run(tmp_path, *arguments)
    assert found == code
    assert output.splitlines()[-1].startswith("Error: ")
    assert problem in output
    assert not (tmp_path / "profile.json").exists()


@pytest.mark.parametrize(
    ("power", "problem"),
    [
        ("{idle_w: 5}", "key servers[0].power.busy_w is missing"),
        ("{idle_w: 5, busy_w: 4}", "busy_w 4 is below idle_w 5"),
        ("{idle_w: -1, busy_w: 4}", "servers[0].power.idle_w: must be at least 0, got -1"),
        ("{idle_w: 1, busy_w: 4, peak_w: 9}", "unknown key servers[0].power.peak_w; allowed here: idle_w, busy_w"),
    ],
)
def test_a_power_model_that_can_not_be_is_refused(tmp_path: Path, power: str, problem: str) -> None:
    code, output = run(tmp_path, fleet=f"servers: [{{name: a, grpc: 'h:1', power: {power}}}]")
    assert code == 1
    assert problem in output


def test_a_server_on_another_host_can_not_be_controlled_from_here(tmp_path: Path) -> None:
    fleet = "servers: [{name: a, grpc: '10.0.0.1:1', metrics: 'http://10.0.0.1:2', repository: .}]"
    code, output = run(tmp_path, "--control", "--out", tmp_path / "p.json", fleet=fleet)
    assert code == 1
    assert "run 'slimsched profile' beside the server" in output


@pytest.fixture
def controller() -> Iterator[str]:
    """The address of a controller of server ``a``, which says no more than that."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"server": "a"}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_nothing_is_changed_beside_a_running_controller_unless_forced(tmp_path: Path, controller: str) -> None:
    fleet = FLEET.replace("'127.0.0.1:1'", f"'127.0.0.1:1', controller: '{controller}'")
    code, output = run(tmp_path, "--control", "--out", tmp_path / "p.json", fleet=fleet)
    assert code == 1
    assert "a controller looks after a and would undo what is measured; stop it, or give --force" in output
    code, output = run(tmp_path, "--control", "--force", "--out", tmp_path / "p.json", fleet=fleet)
    assert code == 1
    assert "needs 'repository' and 'metrics'" in output


def test_a_profile_is_shown_and_drawn_without_asking_anybody(tmp_path: Path) -> None:
    out, picture = tmp_path / "profile.json", tmp_path / "p.png"
    write_profile(profile_of(), out)
    code, output = run(tmp_path, "--show", "--out", out, "--plot", picture)
    assert code == 0
    assert "100 %" in output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_profile_replaces_no_fleet_file_and_a_place_for_its_picture_is_sought_first(tmp_path: Path) -> None:
    code, output = run(tmp_path, "--out", tmp_path / "fleet.yaml")
    assert (code, "would replace what the command reads" in output) == (1, True), output
    closed = Path("/proc/p.png")  # a folder in which nobody writes, root included
    code, output = run(tmp_path, "--out", tmp_path / "p.json", "--plot", closed)
    assert (code, f"can't write the picture {closed}" in output) == (1, True), output


def test_a_damaged_partial_profile_is_refused_and_can_be_forgotten(tmp_path: Path) -> None:
    out, partial = tmp_path / "profile.json", tmp_path / "profile.json.partial"
    partial.write_text("no journal\n")
    code, output = run(tmp_path, "--out", out)
    assert code == 1
    assert "line 1 is damaged" in output
    assert "--restart" in output
    code, output = run(tmp_path, "--out", out, "--restart")
    assert code == 1  # the server is absent all the same
    assert "damaged" not in output


def test_a_server_that_is_named_twice_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    assert [server.name for server in _choose(load_fleet(path), ("a", "a")).servers] == ["a"]


@pytest.mark.parametrize("more", [[], ["--restart"], ["--server", "a"], ["--plot"]])
def test_a_closed_folder_is_told_before_a_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    folder = tmp_path / "of another"
    folder.mkdir()
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    fleet = load_fleet(path)
    monkeypatch.setattr(research_profile, "load_fleet", lambda path: fleet)
    place = folder / "profile.json"
    options = ["--plot", str(folder / "inner" / "p.png")] if more == ["--plot"] else ["--out", str(place), *more]
    with closed(folder):
        result = CliRunner().invoke(main, ["profile", "--fleet", str(path), *options])
    said = "there is no folder" if more == ["--plot"] else "can't write .*profile.json .Permission denied.; choose"
    assert (result.exit_code, re.search(said, result.output) is not None) == (1, True), result.output


def test_an_interruption_before_anything_is_kept_names_no_file_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*request: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(research_profile, "take_profile", interrupt)
    code, said = run(tmp_path, "--out", tmp_path / "p.json")
    assert (code, said.splitlines()[-1]) == (130, "interrupted; nothing was kept yet")
    (tmp_path / "p.json.partial").touch()
    code, said = run(tmp_path, "--out", tmp_path / "p.json")
    assert (code, "the same command goes on from" in said) == (130, True)
