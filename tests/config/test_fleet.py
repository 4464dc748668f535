from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings, load_fleet, parse_fleet, render_fleet
from orchestrator.errors import ConfigError

FLEET = """
servers:
  - {name: fast, grpc: "127.0.0.1:8001", metrics: "http://127.0.0.1:8002/metrics"}
  - {name: slow, grpc: "[::1]:8011", device: gpu, emulated_slowdown: 3}
router:
  policy: lert:slack
  deadline_ms: 50
"""


def test_a_fleet_file_is_read() -> None:
    fleet = parse_fleet(FLEET)
    assert [server.name for server in fleet.servers] == ["fast", "slow"]
    assert fleet.servers[1].emulated_slowdown == 3
    assert fleet.router.deadline_ms == 50
    assert fleet.router.queue_limit == RouterSettings().queue_limit


def test_rendering_and_reading_are_inverse() -> None:
    fleet = parse_fleet(FLEET)
    assert parse_fleet(render_fleet(fleet)) == fleet
    assert FleetSettings.model_validate_json(fleet.model_dump_json()) == fleet
    plain = FleetSettings(servers=(ServerSettings(name="a", grpc="localhost:1"),))
    assert render_fleet(plain) == "apiVersion: slimsched/v1\nservers:\n- name: a\n  grpc: localhost:1\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("servers: [{name: a, grpc: 'h:99999'}]", "port 99999 is outside 1 to 65535"),
        ("servers: [{name: a, grpc: 'a..b:1'}]", r"grpc: the host is no name: .* correct it, got 'a\.\.b:1'$"),
        (f"servers: [{{name: a, grpc: '{'x' * 64}:1'}}]", "the host is no name: .* 1 to 63 characters"),
        (
            "servers: [{name: a, grpc: 'h:1', limits: &l {memory_budget_mib: *l}}]",
            r"limits\.memory_budget_mib: must be a number$",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}]\nrouter: {deadline_ms: .inf}",
            r"router\.deadline_ms: must be a finite number",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}]\nrouter: {discovery_period_s: 9, guard: {stale_after_s: 9}}",
            "stale_after_s 9 is not above discovery_period_s 9.*raise it",
        ),
        ("", "holds no keys; it starts with 'servers:'"),
        ("- a", "holds no keys"),
        ("a: [", r"is no YAML: line 1, column 5: there is no value where one belongs"),
        ("[" * 3000, "is no YAML: lists and keys are nested too deeply in it"),
        ("null: 1\nservers: [{name: a, grpc: 'h:1'}]", r"fleet\.yaml: the file: a key must be text, got null"),
        ("servers: [{name: a, grpc: 'h:1'}]\nrouter: {7: 1}", r"line 2: router: a key must be text, got 7"),
        ("a: 2026-02-30", "is no YAML: line 1, column 4: '2026-02-30' is no date; put quotes around it if it"),
        ("\na: " + "9" * 5000, "is no YAML: line 2, column 4: '99.*9… is no whole number"),
        ("router: {}", "key servers is missing"),
        ("servers: []", "servers: must have at least 1, but has 0"),
        ("servers: [{name: a}]", r"key servers\[0\]\.grpc is missing"),
        (
            "servers: [{name: a, grpc: localhost}]",
            r"servers\[0\]\.grpc: must be host:port, such as 127.0.0.1:8001.*, got 'localhost'$",
        ),
        (
            "servers: [{name: a, grpc: 'h:1', gprc: 2}]",
            r"unknown key servers\[0\]\.gprc; allowed here: name, grpc, metrics",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}]\nruoter: {}",
            "unknown key ruoter; allowed here: apiVersion, servers, ",
        ),
        ('servers: [{name: a, grpc: "h:1"}]\nrouter: {profile: "a\\0"}', r"router\.profile.* it holds a null byte"),
        (
            "servers: [{name: a, grpc: 'h:1'}]\nrouter: {deadline_ms: 0}",
            r"router\.deadline_ms: must be above 0, got 0",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}]\nrouter: {deadline: 5, polcy: x}",
            r"2 problems: \(1\) line 2: unknown key router\.deadline; .*; \(2\) line 2: unknown key router\.polcy",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}, {name: a, grpc: 'h:2'}]",
            r"servers\[1\].name: is there twice; must be unique, got 'a'",
        ),
        (
            "servers: [{name: a, grpc: 'h:1'}, {name: b, grpc: 'h:1'}]",
            r"servers\[1\].grpc: is there twice; must be unique, got 'h:1'",
        ),
        (
            "servers: [{name: a, grpc: 'h:1', device_class: 'two words'}]",
            r"device_class: must be letters, digits, dots, underscores and hyphens",
        ),
        (
            "servers: [{name: a, grpc: 'h:1', emulated_slowdown: 0.5}]",
            r"emulated_slowdown: must be at least 1, got 0\.5",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_fleet(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:8002/metrics", "http://h", "http://[::1]:8002/metrics", "http://h:65535"])
def test_a_metrics_url_that_can_be_asked_is_taken_as_it_is(url: str) -> None:
    assert ServerSettings(name="a", grpc="h:1", metrics=url).metrics == url


@pytest.mark.parametrize(
    "url",
    ["http://", "http://:8002/metrics", "http://h:0/metrics", "http://h:65536/metrics", "http://h:x/", "http://[::1/",
     "https://h:8002", "h:8002", "http://a b:1/"],
)  # fmt: skip
def test_a_metrics_url_that_can_t_be_asked_is_named_with_a_remedy(url: str) -> None:
    with pytest.raises(ConfigError, match=r"servers\[0\]\.metrics: .*give a URL such as http://.*, got") as caught:
        parse_fleet(f"servers: [{{name: a, grpc: 'h:1', metrics: '{url}'}}]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["collector", "ftp://x", "http://h:0/v1/traces", "''"])
def test_a_collector_that_can_t_be_told_is_named_with_a_remedy(url: str) -> None:
    text = "servers: [{{name: a, grpc: 'h:1'}}]\ngateway: {{tracing: {{endpoint: {}}}}}"
    assert parse_fleet(text.format("https://h/v1/traces")).gateway.tracing is not None
    with pytest.raises(ConfigError, match=r"gateway\.tracing\.endpoint: must be an http:// or https:// URL .*4318/v1"):
        parse_fleet(text.format(url))


def test_spans_have_a_service() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.tracing\.service_name: must have at least 1 characters"):
        parse_fleet("servers: [{name: a, grpc: 'h:1'}]\ngateway: {tracing: {service_name: ''}}")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("stuck_after_s: 9", "controller: .*stuck_after_s 9 is below action_timeout_s 10.*raise it"),
        ("idle_s: 301", "controller: .*idle_s 301 is above unload_after_s 300.*lower it"),
        ("deadline_budget_ms: 101", "deadline_budget_ms 101 is above router.deadline_ms 100.*lower it"),
        ("grow_busy_ratio: 0.4", "controller: shrink_busy_ratio 0.4 must be below grow_busy_ratio 0.4"),
        ("quarantine_s: 301", "controller: quarantine_max_s 300 is below quarantine_s 301; raise it$"),
        ("action_timeout_s: 0.4", r"controller\.action_timeout_s: must be at least 0\.5, got 0\.4"),
    ],
)
def test_timings_that_contradict_each_other_are_refused(settings: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_fleet(f"servers: [{{name: a, grpc: 'h:1'}}]\ncontroller: {{{settings}}}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("second", "gateway", "problem"),
    [
        ("grpc: 'h:4', controller: 'h:2'", "{}", "h:2 is given for controller of server a and controller of server b"),
        (
            "grpc: 'h:4', metrics: 'http://h:3/m'",
            "{}",
            "http://h:3/m is given for metrics of server a and metrics of s",
        ),
        ("grpc: 'h:2'", "{}", "h:2 is given for controller of server a and grpc of server b; each needs its own$"),
        ("grpc: 'h:4'", "{http: 'h:4'}", "h:4 is given for gateway.http and grpc of server b; each needs its own$"),
        ("grpc: 'h:4', controller: '0.0.0.0:2'", "{}", "h:2 is given for controller of server a and controller of"),
    ],
)
def test_an_address_that_two_would_answer_at_is_refused(second: str, gateway: str, problem: str) -> None:
    first = "name: a, grpc: 'h:1', controller: '0.0.0.0:2', metrics: 'http://h:3/m'"
    with pytest.raises(ConfigError, match=problem):
        parse_fleet(f"servers: [{{{first}}}, {{name: b, {second}}}]\ngateway: {gateway}")


def test_controllers_of_two_hosts_may_listen_everywhere_at_one_port() -> None:
    fleet = parse_fleet(
        "servers: [{name: a, grpc: 'g:1', controller: '0.0.0.0:2'}, {name: b, grpc: 'h:1', controller: '0.0.0.0:2'}]"
    )
    assert [server.controller_address for server in fleet.servers] == ["g:2", "h:2"]


def test_servers_are_found_by_name() -> None:
    fleet = parse_fleet(FLEET)
    assert fleet.server("slow") is fleet.servers[1]
    with pytest.raises(ConfigError, match="no server 'b' in the fleet; it has fast, slow"):
        fleet.server("b")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no fleet file at .*fleet\.yaml"):
        load_fleet(tmp_path / "fleet.yaml")
    with pytest.raises(ConfigError, match="can't read"):
        load_fleet(tmp_path)
    binary = tmp_path / "fleet.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't read"):
        load_fleet(binary)
