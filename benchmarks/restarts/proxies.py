"""The balancers between a client and the gateways: their settings, plain ones that repeat what was never sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.programs import find_program, render_envoy
from benchmarks.restarts.installed import find_installed
from benchmarks.restarts.testbed import Addresses

PROBE_PERIOD_S, PROBE_TIMEOUT_S = 0.25, 2.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A balancer.

    Attributes:
        find: Returns the program; raises ConfigError where it is not installed.
        render: Returns its settings, given a port to listen on, what it spreads calls over, and a folder for its files.
        options: Its arguments, given the path of the settings.
        version: Its arguments to tell its version.
    """

    find: Callable[[], Path]
    render: Callable[[int, Sequence[Addresses], Path], str]
    options: Callable[[Path], Sequence[str]]
    version: Sequence[str]


def _render_envoy(port: int, gateways: Sequence[Addresses], folder: Path) -> str:
    places = [(host, int(at)) for host, _, at in (gateway.grpc.rpartition(":") for gateway in gateways)]
    config = render_envoy(port, places, "ROUND_ROBIN")
    cluster = config["static_resources"]["clusters"][0]
    period = f"{PROBE_PERIOD_S}s"
    probe = {
        "timeout": f"{PROBE_TIMEOUT_S}s",
        "interval": period,
        "no_traffic_interval": period,
        "grpc_health_check": {},
    }
    cluster["health_checks"] = [{**probe, "unhealthy_threshold": 1, "healthy_threshold": 1}]
    (listener,) = config["static_resources"]["listeners"]
    connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
    route = connections["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    route["retry_policy"] = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
    return json.dumps(config)


def _render_haproxy(port: int, gateways: Sequence[Addresses], folder: Path) -> str:
    probe = f"check check-proto h1 inter {1e3 * PROBE_PERIOD_S:.0f}ms fall 1 rise 1"
    servers = "\n".join(
        f"  server g{number} {gateway.grpc} proto h2 {probe} port {gateway.http.rpartition(':')[2]}"
        for number, gateway in enumerate(gateways)
    )
    return f"""
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout check {1e3 * PROBE_TIMEOUT_S:.0f}ms
  retries 3
  option redispatch 1
frontend grpc
  bind 127.0.0.1:{port} proto h2
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk GET /v2/health/ready
{servers}
"""


def _render_nginx(port: int, gateways: Sequence[Addresses], folder: Path) -> str:
    servers = "\n".join(f"    server {gateway.grpc} max_fails=1 fail_timeout=1s;" for gateway in gateways)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"  {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{places}
  upstream gateways {{
{servers}
    keepalive 32;
  }}
  server {{
    listen 127.0.0.1:{port};
    http2 on;
    keepalive_requests 1000000;
    location / {{ grpc_pass grpc://gateways; grpc_next_upstream error; }}
  }}
}}
"""


PROXIES: Mapping[str, Proxy] = {
    "Envoy": Proxy(
        lambda: find_program("envoy"),
        _render_envoy,
        lambda path: ("-c", str(path), "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"),
        ("--version",),
    ),
    "HAProxy": Proxy(
        lambda: find_installed("haproxy", "haproxy"),
        _render_haproxy,
        lambda path: ("-f", str(path)),
        ("-v",),
    ),
    "nginx": Proxy(
        lambda: find_installed("nginx", "nginx"),
        _render_nginx,
        lambda path: ("-c", str(path), "-e", "stderr"),
        ("-v",),
    ),
}
