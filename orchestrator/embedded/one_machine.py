"""A fleet file read as a plan for embedded servers on this machine, and a plan where there is no file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, check_repository, choose_free_ports
from orchestrator.errors import ConfigError

_HERE = frozenset({LOOPBACK, "localhost"})  # tritonserver is told to listen on loopback only


def default_fleet(slowdowns: tuple[float, ...], repository: Path) -> FleetSettings:
    """Return a fleet of servers on free ports, one a slow-down (>= 1), with the gateway at its default addresses."""
    ports = iter(choose_free_ports(len(slowdowns)))
    servers = (
        ServerSettings(
            name=f"local-{number}",
            grpc=f"{LOOPBACK}:{next(ports)}",
            emulated_slowdown=slowdown if slowdown > 1.0 else None,
        )
        for number, slowdown in enumerate(slowdowns)
    )
    return complete_fleet(FleetSettings(servers=tuple(servers)), repository)


def complete_fleet(fleet: FleetSettings, repository: Path) -> FleetSettings:
    """Return the fleet with all that embedded servers and their controllers need.

    Args:
        fleet: The fleet whose servers are to run here.
        repository: The model repository of servers that name none.

    Raises:
        ConfigError: A server can't run here, or a repository can't be used.
    """
    for server in fleet.servers:
        _check_is_here(server)
        check_repository(server.repository or repository, None)
    ports = iter(choose_free_ports(2 * len(fleet.servers)))
    servers = []
    for server in fleet.servers:
        update = {
            "repository": (server.repository or repository).absolute(),
            "metrics": server.metrics or f"http://{LOOPBACK}:{next(ports)}/metrics",
            "controller": server.controller or f"{LOOPBACK}:{next(ports)}",
        }
        servers.append(server.model_copy(update=update))
    return fleet.model_copy(update={"servers": tuple(servers)})


def options_of(server: ServerSettings, *, log_path: Path) -> EmbeddedOptions:
    """Return how an embedded server becomes the one of a complete fleet."""
    return EmbeddedOptions(
        grpc_port=int(server.grpc.rpartition(":")[2]),
        metrics_port=None if server.metrics is None else urlsplit(server.metrics).port,
        slowdown=server.emulated_slowdown or 1.0,
        log_path=log_path,
    )


def _check_is_here(server: ServerSettings) -> None:
    if server.device != "cpu":
        raise ConfigError(
            f"servers[{server.name}].device is {server.device}, but embedded servers run on CPU; start NVIDIA's image "
            "for it (deploy/compose.yaml) and then 'slimsched gateway'"
        )
    hosts = [("grpc", server.grpc.rpartition(":")[0])]
    if server.metrics is not None:
        hosts.append(("metrics", urlsplit(server.metrics).hostname or ""))
    for key, host in hosts:
        if host not in _HERE:
            raise ConfigError(
                f"servers[{server.name}].{key} is on {host}, but embedded servers listen on {LOOPBACK} only; give "
                "that, or run 'slimsched gateway' for servers elsewhere"
            )
    if server.protocol_key_file is not None:
        raise ConfigError(f"servers[{server.name}].protocol_key_file: embedded servers here have none; leave it out")
