"""Who drives what: agreed by all, even, and hardly changed when a gateway comes or goes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ownership.rendezvous import GatewayName, assign
from orchestrator.snapshot import ServerName

GATEWAYS = [GatewayName(f"gateway-{n}") for n in range(8)]

capacities = st.dictionaries(
    st.integers(0, 30).map(lambda n: ServerName(f"gpu-{n}")), st.floats(1, 1000), min_size=1, max_size=16
)
gateways = st.sets(st.sampled_from(GATEWAYS), min_size=1)


@given(capacities, gateways, st.randoms(use_true_random=False))
def test_every_server_has_one_driver_whatever_the_order_in_which_names_come(
    servers: dict[ServerName, float], live: set[GatewayName], shuffler: random.Random
) -> None:
    drivers = assign(servers, live)
    assert drivers.keys() == servers.keys()
    assert set(drivers.values()) <= live
    entries, names = list(servers.items()), list(live)
    shuffler.shuffle(entries)
    shuffler.shuffle(names)
    assert assign(dict(entries), names) == drivers


@given(capacities, gateways)
def test_no_gateway_has_more_than_its_share_and_one_server(
    servers: dict[ServerName, float], live: set[GatewayName]
) -> None:
    drivers = assign(servers, live)
    fair_rps, largest_rps = sum(servers.values()) / len(live), max(servers.values())
    for gateway in live:
        has_rps = sum(servers[name] for name, driver in drivers.items() if driver == gateway)
        assert has_rps <= max(1.1 * fair_rps, fair_rps + largest_rps) * (1 + 1e-9)


@pytest.mark.parametrize(("servers", "live"), [(4, 2), (8, 2), (8, 4), (16, 8), (6, 3)])
def test_equal_servers_are_shared_out_evenly(servers: int, live: int) -> None:
    drivers = assign({ServerName(f"gpu-{n}"): 100.0 for n in range(servers)}, GATEWAYS[:live])
    assert [list(drivers.values()).count(gateway) for gateway in GATEWAYS[:live]] == [servers // live] * live


def test_of_more_gateways_than_servers_each_server_has_one_of_its_own() -> None:
    drivers = assign({ServerName(f"gpu-{n}"): 100.0 for n in range(3)}, GATEWAYS)
    assert len(set(drivers.values())) == 3


def test_no_gateway_drives_nothing() -> None:
    assert assign({ServerName("gpu-0"): 100.0}, []) == {}


@pytest.mark.parametrize("live", [2, 4, 8])
def test_when_a_gateway_goes_few_servers_of_the_others_move(live: int) -> None:
    servers = {ServerName(f"gpu-{n}"): 100.0 for n in range(200)}
    before = assign(servers, GATEWAYS[:live])
    for gone in GATEWAYS[:live]:
        after = assign(servers, [gateway for gateway in GATEWAYS[:live] if gateway != gone])
        moved = [name for name, driver in before.items() if driver not in (gone, after[name])]
        assert len(moved) <= 0.05 * len(servers)


def test_drivers_are_the_same_on_every_machine_and_in_every_release() -> None:
    names = [ServerName(f"gpu-{n}") for n in range(4)]
    drivers = assign(dict.fromkeys(names, 1.0), GATEWAYS[:2])
    assert [drivers[name] for name in names] == ["gateway-1", "gateway-1", "gateway-0", "gateway-0"]
