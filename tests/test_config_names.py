from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import ServerSettings
from orchestrator.config.names import Assigned, expand_servers, host_of, is_name

NAMED = ServerSettings(name="triton", grpc="triton.svc:8001", metrics="http://triton.svc:8002/metrics")
LITERAL = ServerSettings(name="here", grpc="127.0.0.1:8001")


def names_of(servers: tuple[ServerSettings, ...]) -> dict[str, str]:
    return {server.name: server.grpc for server in servers}


def test_each_address_is_a_server_and_what_is_beside_it_goes_along() -> None:
    servers, _ = expand_servers([NAMED, LITERAL], {"triton.svc": ["10.0.0.2", "10.0.0.1"]}, {})
    assert names_of(servers) == {"triton": "10.0.0.1:8001", "triton-2": "10.0.0.2:8001", "here": "127.0.0.1:8001"}
    assert [server.metrics for server in servers] == [
        "http://10.0.0.1:8002/metrics",
        "http://10.0.0.2:8002/metrics",
        None,
    ]


def test_what_can_not_be_resolved_is_left_as_it_is() -> None:
    assert expand_servers([NAMED, LITERAL], {"triton.svc": []}, {})[0] == (NAMED, LITERAL)


def test_addresses_of_the_sixth_version_are_bracketed() -> None:
    servers, _ = expand_servers([NAMED], {"triton.svc": ["fd00::1"]}, {})
    assert names_of(servers) == {"triton": "[fd00::1]:8001"}


def test_a_name_that_another_server_has_is_passed_over() -> None:
    other = ServerSettings(name="triton-2", grpc="127.0.0.1:8001")
    servers, _ = expand_servers([NAMED, other], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, {})
    assert [server.name for server in servers] == ["triton", "triton-3", "triton-2"]


def test_what_is_a_name() -> None:
    assert [is_name(host_of(a)) for a in ("localhost:1", "10.0.0.1:1", "[::1]:1", "a.b:1")] == [
        True,
        False,
        False,
        True,
    ]


hosts = st.sets(st.sampled_from([f"10.0.0.{n}" for n in range(1, 7)]), max_size=6)


@given(st.lists(hosts, min_size=1, max_size=10))
def test_a_server_keeps_its_name_as_long_as_its_address_stays(steps: list[set[str]]) -> None:
    assigned: Assigned = {}
    before: dict[str, str] = {}
    for addresses in steps:
        servers, assigned = expand_servers([NAMED, LITERAL], {"triton.svc": addresses}, assigned)
        now = {server.grpc: server.name for server in servers}
        assert len(set(now.values())) == len(servers)
        assert now.keys() - {"127.0.0.1:8001"} == ({f"{ip}:8001" for ip in addresses} or {"triton.svc:8001"})
        if addresses:
            assert all(now[address] == name for address, name in before.items() if address in now)
        before = now if addresses else {}
