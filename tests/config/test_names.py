from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import ServerSettings
from orchestrator.config.names import Assigned, expand_servers, host_of, is_name, name_in_file, pod_of, profile_entry

NAMED = ServerSettings(name="triton", grpc="triton.svc:8001", metrics="http://triton.svc:8002/metrics")
LITERAL = ServerSettings(name="here", grpc="127.0.0.1:8001")


def names_of(servers: tuple[ServerSettings, ...]) -> dict[str, str]:
    return {server.name: server.grpc for server in servers}


def test_each_address_is_a_server_and_what_is_beside_it_goes_along() -> None:
    servers, _ = expand_servers([NAMED, LITERAL], {"triton.svc": ["10.0.0.2", "10.0.0.1"]}, {})
    assert names_of(servers) == {
        "triton-10.0.0.1": "10.0.0.1:8001",
        "triton-10.0.0.2": "10.0.0.2:8001",
        "here": "127.0.0.1:8001",
    }
    assert [server.metrics for server in servers] == [
        "http://10.0.0.1:8002/metrics",
        "http://10.0.0.2:8002/metrics",
        None,
    ]


def test_what_can_not_be_resolved_is_left_as_it_is() -> None:
    assert expand_servers([NAMED, LITERAL], {"triton.svc": []}, {})[0] == (NAMED, LITERAL)


def test_addresses_of_the_sixth_version_are_bracketed() -> None:
    servers, _ = expand_servers([NAMED], {"triton.svc": ["fd00::1", "fd00::2"]}, {})
    assert names_of(servers) == {"triton-fd00--1": "[fd00::1]:8001", "triton-fd00--2": "[fd00::2]:8001"}


def test_a_name_that_another_server_has_is_passed_over() -> None:
    other = ServerSettings(name="triton-10.0.0.2", grpc="127.0.0.1:8001")
    servers, _ = expand_servers([NAMED, other], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, {})
    assert [server.name for server in servers] == ["triton-10.0.0.1", "triton-10.0.0.2-2", "triton-10.0.0.2"]


def test_one_that_is_met_alone_is_called_as_in_the_file_for_as_long_as_it_stays() -> None:
    servers, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.2"]}, {})
    assert names_of(servers) == {"triton": "10.0.0.2:8001"}
    servers, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, assigned)
    assert names_of(servers) == {"triton-10.0.0.1": "10.0.0.1:8001", "triton": "10.0.0.2:8001"}
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, assigned)
    assert names_of(servers) == {"triton-10.0.0.1": "10.0.0.1:8001"}


POD = "triton-0.triton.svc.cluster.local."


@pytest.mark.parametrize(
    ("host", "own_name", "pod"),
    [
        ("triton", "triton-0.triton.inference.svc.cluster.local", "triton-0"),
        ("triton.inference", "Triton-0.triton.inference.svc.cluster.local.", "triton-0"),
        ("triton.inference.svc.cluster.local.", "triton-0.triton.inference.svc.cluster.local", "triton-0"),
        ("triton", "10-0-0-7.triton.inference.svc.cluster.local", None),
        ("triton", "triton-0.triton2.inference.svc.cluster.local", None),
        ("triton", "project-triton-1.project_default", None),
        ("triton", "triton", None),
        ("gpu.example.org", "gpu.example.org", None),
        ("triton", "-.triton", None),
        ("triton", "a b.triton", None),
        ("triton", ".triton", None),
        ("triton", "", None),
    ],
)
def test_a_pod_of_a_headless_service_is_known_by_what_its_address_is_called(
    host: str, own_name: str, pod: str | None
) -> None:
    assert pod_of(host, "10.0.0.7", own_name) == pod


def test_a_pod_that_comes_back_at_another_address_has_its_name_at_once() -> None:
    own_names = {"10.0.0.1": POD}
    servers, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, {}, own_names)
    assert names_of(servers) == {"triton-0": "10.0.0.1:8001"}
    both = {"10.0.0.1": POD, "10.0.0.2": POD}
    for _ in range(2):
        servers, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, assigned, both)
        assert names_of(servers) == {"triton-10.0.0.1": "10.0.0.1:8001", "triton-0": "10.0.0.2:8001"}
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.2"]}, assigned, both)
    assert names_of(servers) == {"triton-0": "10.0.0.2:8001"}


def test_one_of_which_it_is_not_known_at_first_is_called_as_its_pod_once_it_is() -> None:
    _, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, {})
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, assigned, {"10.0.0.1": POD})
    assert names_of(servers) == {"triton-0": "10.0.0.1:8001"}


BY_NODE = {("triton", "10.0.0.1"): "triton-node-1", ("triton", "10.0.0.2"): "triton-ip-10-0-0-2.internal"}


def test_a_pod_without_a_name_in_the_dns_is_called_by_the_identifier_of_its_triton() -> None:
    found, no_pods = {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, {"10.0.0.1": "10-0-0-1.triton.svc.cluster.local"}
    servers, _ = expand_servers([NAMED], found, {}, no_pods, BY_NODE)
    both = {"triton-node-1": "10.0.0.1:8001", "triton-ip-10-0-0-2.internal": "10.0.0.2:8001"}
    assert names_of(servers) == both
    assert [name_in_file(name, [NAMED, LITERAL]) for name in both] == ["triton", "triton"]
    alone, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, {}, {}, BY_NODE)
    assert names_of(alone) == {"triton-node-1": "10.0.0.1:8001"}, "not as in the file, where it may get company"


def test_a_name_that_may_be_behind_either_of_two_servers_of_the_file_says_nothing_of_it() -> None:
    fleet = [ServerSettings(name=name, grpc=f"{name}.svc:8001") for name in ("a", "a-b")]
    assert [name_in_file(name, fleet) for name in ("a-c", "a-b-x", "c-x")] == ["a", None, None]


def test_what_the_dns_calls_a_pod_goes_before_its_tritons_identifier() -> None:
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, {}, {"10.0.0.1": POD}, BY_NODE)
    assert names_of(servers) == {"triton-0": "10.0.0.1:8001"}


@pytest.mark.parametrize("identifier", ["triton", "tritonnode", "another-node", "triton-a b", "triton-ä", "-", ""])
def test_an_identifier_that_does_not_begin_with_the_files_name_or_can_be_no_name_counts_for_nothing(
    identifier: str,
) -> None:
    said = {("triton", "10.0.0.1"): identifier, ("triton", "10.0.0.2"): identifier}
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, {}, {}, said)
    assert set(names_of(servers)) == {"triton-10.0.0.1", "triton-10.0.0.2"}


def test_two_tritons_of_one_node_while_one_takes_the_others_place_are_told_apart() -> None:
    _, assigned = expand_servers([NAMED], {"triton.svc": ["10.0.0.1"]}, {}, {}, BY_NODE)
    both = BY_NODE | {("triton", "10.0.0.2"): "triton-node-1"}
    servers, _ = expand_servers([NAMED], {"triton.svc": ["10.0.0.1", "10.0.0.2"]}, assigned, {}, both)
    assert names_of(servers) == {"triton-10.0.0.1": "10.0.0.1:8001", "triton-node-1": "10.0.0.2:8001"}


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


@given(st.lists(hosts.filter(lambda found: len(found) != 1), min_size=1, max_size=10), hosts)
def test_gateways_that_met_servers_in_another_order_call_each_the_same(steps: list[set[str]], pods: set[str]) -> None:
    own_names = {ip: f"triton-{ip.rpartition('.')[2]}.triton.svc.cluster.local" for ip in pods}
    assigned: Assigned = {}
    for addresses in steps:
        long_there, assigned = expand_servers([NAMED], {"triton.svc": addresses}, assigned, own_names)
        new, _ = expand_servers([NAMED], {"triton.svc": addresses}, {}, own_names)
        assert long_there == new


@given(st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::7", "fd00::2"]), min_size=2))
def test_what_a_server_is_called_by_its_address_leads_back_to_its_name_in_the_file(addresses: set[str]) -> None:
    other = NAMED.model_copy(update={"name": f"{NAMED.name}-1", "grpc": "other.svc:8001"})
    found = {"triton.svc": addresses, "other.svc": addresses}
    for written in (NAMED, other):
        servers, _ = expand_servers([written], found, {})
        assert {name_in_file(server.name, [NAMED, other, LITERAL]) for server in servers} == {written.name}
        pods, _ = expand_servers([written], found, {}, {ip: f"pod-{at}.triton.svc" for at, ip in enumerate(addresses)})
        assert {name_in_file(server.name, [written, LITERAL]) for server in pods} == {written.name}
    assert name_in_file("triton-10.0.0.1-2-2", [NAMED, other]) == NAMED.name
    assert name_in_file(LITERAL.name, [NAMED, LITERAL]) == LITERAL.name
    assert name_in_file("pod-0", [NAMED, other, LITERAL]) is None
    assert name_in_file("gone", [LITERAL]) is None


def test_a_pod_of_a_stateful_set_is_behind_the_headless_service_that_is_called_as_the_set() -> None:
    big, small = (ServerSettings(name=n, grpc=f"slim-triton-{n}.inference.svc:8001") for n in ("big", "big-2"))
    assert name_in_file("slim-triton-big-0", [big, small, LITERAL]) == "big"
    assert name_in_file("slim-triton-big-2-11", [big, small, LITERAL]) == "big-2"
    for other in ("slim-triton-big", "slim-triton-big-2-x", "slim-triton-0", "slim-triton-big-0-0"):
        assert name_in_file(other, [big, small]) is None
    elsewhere = big.model_copy(update={"name": "elsewhere", "grpc": "slim-triton-big.other.svc:8001"})
    assert name_in_file("slim-triton-big-0", [big, elsewhere]) is None, "two namespaces have a set of that name"


@pytest.mark.parametrize(
    ("known", "entry"),
    [
        ({"gpu-0", "gpu", "h100"}, "gpu-0"),
        ({"gpu", "h100"}, "gpu"),
        ({"h100", "a10"}, "h100"),
        ({"a10"}, None),
        (set[str](), None),
    ],
)
def test_a_server_has_the_profiles_entry_of_its_own_name_else_of_the_files_else_of_its_class(
    known: set[str], entry: str | None
) -> None:
    assert profile_entry("gpu-0", "gpu", "h100", known) == entry
    assert profile_entry("gpu-0", None, None, known) == ("gpu-0" if "gpu-0" in known else None)
