"""Fleet files as plans for one machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.config import FleetSettings, ServerSettings, parse_fleet, render_fleet
from orchestrator.embedded.local_stack import complete_fleet, default_fleet, options_of
from orchestrator.embedded.server import choose_free_ports
from orchestrator.errors import ConfigError

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def addresses(fleet: FleetSettings) -> list[str]:
    found = []
    for server in fleet.servers:
        assert server.metrics is not None
        assert server.controller is not None
        found += [server.grpc, urlsplit(server.metrics).netloc, server.controller]
    return found


def test_without_a_file_every_server_has_addresses_of_its_own() -> None:
    fleet = default_fleet((1.0, 3.0), REPOSITORY)
    assert [(s.name, s.emulated_slowdown, s.repository) for s in fleet.servers] == [
        ("local-0", None, REPOSITORY),
        ("local-1", 3.0, REPOSITORY),
    ]
    assert len(set(addresses(fleet))) == 6
    assert parse_fleet(render_fleet(fleet)) == fleet


def test_ports_that_a_file_names_are_not_chosen_for_another() -> None:
    named = tuple(
        ServerSettings(
            name=f"s{port}", grpc=f"127.0.0.1:{port}", metrics=f"http://127.0.0.1/{port}/metrics", repository=REPOSITORY
        )
        for port in choose_free_ports(8)  # free now, as they are before their servers start
    )
    for _ in range(200):
        fleet = complete_fleet(FleetSettings(servers=named), REPOSITORY)
        assert len({port for server in fleet.servers for port in (server.grpc, server.controller)}) == 16


def test_what_a_file_says_stays_and_the_rest_is_added() -> None:
    said = ServerSettings(
        name="a", grpc="localhost:9001", metrics="http://127.0.0.1:9002/metrics", controller="127.0.0.1:9003",
        repository=REPOSITORY, emulated_slowdown=2.0,
    )  # fmt: skip
    bare = ServerSettings(name="b", grpc="127.0.0.1:9011")
    fleet = complete_fleet(FleetSettings(servers=(said, bare)), REPOSITORY)
    assert fleet.servers[0] == said
    assert (fleet.servers[1].grpc, fleet.servers[1].repository) == ("127.0.0.1:9011", REPOSITORY)
    assert len(set(addresses(fleet))) == 6
    options = options_of(said, log_path=Path("a.log"))
    assert (options.grpc_port, options.metrics_port, options.slowdown) == (9001, 9002, 2.0)


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (
            ServerSettings(name="a", grpc="10.0.0.1:9001"),
            r"a\].grpc is on 10.0.0.1, but .* on 127.0.0.1 only",
        ),
        (ServerSettings(name="a", grpc="127.0.0.1:9001", metrics="http://gpu:1/metrics"), r"a\].metrics is on gpu"),
        (ServerSettings(name="a", grpc="127.0.0.1:9001", device="gpu"), r"a\].device is gpu, .* on CPU"),
        (ServerSettings(name="a", grpc="127.0.0.1:9001", repository=Path("/nowhere")), "/nowhere is not a directory"),
        (ServerSettings(name="a", grpc="127.0.0.1:9001", protocol_key_file=Path("k")), "protocol_key_file"),
    ],
)
def test_a_server_that_can_not_run_here_is_refused(server: ServerSettings, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        complete_fleet(FleetSettings(servers=(server,)), REPOSITORY)
