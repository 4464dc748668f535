"""Two gateways as processes on hosts of their own, between which a router loses what it is told to lose.

The Tritons are fakes that tell who sends them a batch and when, on the machine's one clock. So who drives what is not
what gateways say, but what reached a server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import (
    FleetSettings,
    GatewaySettings,
    PeerSettings,
    RouterSettings,
    ServerSettings,
    render_fleet,
)
from orchestrator.ownership import LEASE_S
from tests.fakes.servers import NO_TIME_LIMITS
from tests.gateway.peers.namespaces import Hosts, open_hosts
from tests.gateway.running import ROOT, Addresses, Process, launch_gateway, stop_gateway

WAIT_S = 60.0
STILL_DRIVES_S = 1.0
"""A sender that pauses for less has not stopped: callers ask many times a second."""
GATEWAYS = ("one", "two")


@dataclass(frozen=True)
class Batch:
    at_s: float
    sender: str


def doubly_driven(batches: Sequence[Batch]) -> list[tuple[float, float]]:
    """Return from when to when a server had two drivers: another's batch came between two of one that went on."""
    gaps = []
    last: dict[str, Batch] = {}
    for before, batch in zip([None, *batches], batches, strict=False):
        own = last.get(batch.sender)
        if own and before and before.sender != batch.sender and batch.at_s - own.at_s < STILL_DRIVES_S:
            gaps.append((own.at_s, batch.at_s))
        last[batch.sender] = batch
    found: list[tuple[float, float]] = []
    for began_s, ended_s in sorted(gaps):
        if found and began_s - found[-1][1] < STILL_DRIVES_S:
            began_s, ended_s = found[-1][0], max(found.pop()[1], ended_s)
        found.append((began_s, ended_s))
    return found


def test_what_counts_as_two_drivers() -> None:
    def found(text: str, period_s: float = 0.1) -> list[tuple[float, float]]:
        return doubly_driven([Batch(number * period_s, who) for number, who in enumerate(text) if who != " "])

    assert found("aaaabbbb") == []
    assert found("aaa          bbb          aaa") == []
    assert found("aabaa") == [(pytest.approx(0.1), pytest.approx(0.3))]
    assert found("aababb") == [(pytest.approx(0.1), pytest.approx(0.4))]
    assert found("aba            bbab") == [(0.0, pytest.approx(0.2)), (pytest.approx(1.6), pytest.approx(1.8))]


class Parted:
    """Two gateways and a rack of two Tritons, each on a host of its own."""

    def __init__(self, directory: Path, hosts: Hosts, *, has_keepers: bool) -> None:
        self.hosts = hosts
        self.at = {name: hosts.add(name)[0] for name in GATEWAYS}
        _, *rack = hosts.add("rack", 5)
        self.tritons, keepers = [f"{host}:8001" for host in rack[:2]], [f"{host}:9400" for host in rack[2:]]
        self.keeper_at = dict(zip(self.tritons, rack[2:], strict=True))
        self._told = directory / "told.jsonl"
        self._running: list[Process] = []
        plan = {
            "tritons": self.tritons,
            "keepers": keepers if has_keepers else [],
            "gateways": [f"{host}:8081" for host in self.at.values()],
        }
        command = [*hosts.run_in("rack"), sys.executable, "-m", "tests.gateway.peers.beside", json.dumps(plan)]
        with self._told.open("wb") as told:
            self._beside = subprocess.Popen(command, cwd=ROOT, stdout=told)
        try:
            for name in GATEWAYS:
                self._start(directory, name, keepers if has_keepers else [None, None])
        except BaseException:
            self.close()
            raise

    def _start(self, directory: Path, name: str, keepers: Sequence[str | None]) -> None:
        own = self.at[name]
        addresses = Addresses(f"{own}:8081", f"{own}:8080", f"{own}:8082")
        fleet = FleetSettings(
            servers=tuple(
                ServerSettings(name=f"s{n}", grpc=triton, controller=keeper)
                for n, (triton, keeper) in enumerate(zip(self.tritons, keepers, strict=True))
            ),
            router=RouterSettings(policy="round-robin", warm_up=False, guard=NO_TIME_LIMITS, probes=None),
            gateway=GatewaySettings(
                grpc=addresses.grpc,
                http=addresses.http,
                metrics=addresses.metrics,
                drain_s=2.0,
                peers=PeerSettings(
                    listen=f"{own}:8083", addresses=tuple(f"{each}:8083" for each in self.at.values()), name=name
                ),
            ),
        )
        path = directory / f"{name}.yaml"
        path.write_text(render_fleet(fleet))
        self._running.append(launch_gateway(addresses, path, before=self.hosts.run_in(name)))

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._told.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def batches(self, *, since_s: float = 0.0) -> dict[str, list[Batch]]:
        """Return what came at each Triton."""
        names = {address: name for name, address in self.at.items()}
        found: dict[str, list[Batch]] = defaultdict(list)
        for each in self.told():
            if "server" in each and each["at_s"] >= since_s:
                found[each["server"]].append(Batch(each["at_s"], names[each["sender"]]))
        return found

    def drivers(self, *, since_s: float) -> dict[str, set[str]]:
        found = self.batches(since_s=since_s)
        return {server: {each.sender for each in found[server]} for server in self.tritons}

    def driver_of(self, *, settled_s: float = 1.0) -> dict[str, str]:
        """Return who drives each server, once each has one, and each gateway one, for a while."""
        found: dict[str, set[str]] = {}

        def is_settled() -> bool:
            found.clear()
            found.update(self.drivers(since_s=time.monotonic() - settled_s))
            return sorted(map(sorted, found.values())) == [["one"], ["two"]]

        wait(is_settled, lambda: found)
        return {server: next(iter(senders)) for server, senders in found.items()}

    def ends(self, gateway: str) -> Counter[str]:
        """Return what became of the calls of a gateway's callers since it first answered."""
        own = [each["end"] for each in self.told() if each.get("caller_of") == f"{self.at[gateway]}:8081"]
        return Counter(own[own.index("OK") :])

    def close(self) -> None:
        self.hosts.heal()
        for process in self._running:
            stop_gateway(process)
        self._beside.terminate()
        self._beside.wait()


def wait(is_so: Callable[[], bool], describe: Callable[[], object]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < until_s, describe()
        time.sleep(0.1)


@pytest.fixture
def parted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Parted]:
    with open_hosts() as hosts:
        made = Parted(tmp_path, hosts, has_keepers=request.param)
        yield made
        made.close()


def longest_s(parted: Parted) -> float:
    """Return for how long at a stretch any server had two drivers."""
    return max((end - begin for each in parted.batches().values() for begin, end in doubly_driven(each)), default=0.0)


@pytest.mark.parametrize("parted", [True], indirect=True, ids=["records"])
def test_gateways_that_can_not_reach_each_other_go_on_with_what_they_drive_where_records_are_kept(
    parted: Parted,
) -> None:
    before = parted.driver_of()
    began_s = time.monotonic()
    parted.hosts.part(parted.at["one"], parted.at["two"])
    time.sleep(3 * LEASE_S)
    for since_s in (began_s, began_s + 2 * LEASE_S):  # and each is still driven
        assert parted.drivers(since_s=since_s) == {server: {driver} for server, driver in before.items()}
    parted.hosts.heal()
    time.sleep(LEASE_S)
    parted.driver_of()
    assert longest_s(parted) <= LEASE_S
    for name in GATEWAYS:
        assert parted.ends(name).keys() == {"OK"}, parted.ends(name)


@pytest.mark.parametrize("parted", [True], indirect=True, ids=["records"])
def test_who_can_not_reach_a_record_stops_driving_before_another_begins(parted: Parted) -> None:
    (server, cut) = next(iter(parted.driver_of().items()))
    (other,) = set(GATEWAYS) - {cut}
    began_s = time.monotonic()
    parted.hosts.part(parted.at[cut], parted.keeper_at[server])
    parted.hosts.part(parted.at[cut], parted.at[other])
    wait(lambda: other in parted.drivers(since_s=began_s)[server], lambda: "the other is to take it")
    taken_s = time.monotonic()
    time.sleep(2 * LEASE_S)
    assert parted.drivers(since_s=taken_s + LEASE_S)[server] == {other}, "though the Triton itself could be reached"
    parted.hosts.heal()
    time.sleep(LEASE_S)
    parted.driver_of()
    assert longest_s(parted) <= LEASE_S


@pytest.mark.parametrize("parted", [False], indirect=True, ids=["no records"])
def test_without_records_both_drive_all_while_they_can_not_reach_each_other_and_each_its_own_again_afterwards(
    parted: Parted,
) -> None:
    parted.driver_of()
    assert longest_s(parted) <= LEASE_S
    parted_s = time.monotonic()
    parted.hosts.part(parted.at["one"], parted.at["two"])
    wait(
        lambda: set(map(frozenset, parted.drivers(since_s=time.monotonic() - 1).values())) == {frozenset(GATEWAYS)},
        lambda: "both are to drive both",
    )
    time.sleep(7.0 - (time.monotonic() - parted_s))  # TCP sends again 6.2 s after it began to lose packets, and 12.6 s
    for name in GATEWAYS:
        assert parted.ends(name).keys() == {"OK"}, parted.ends(name)
    healed_s = time.monotonic()
    parted.hosts.heal()
    parted.driver_of()
    for batches in parted.batches().values():
        began_s, ended_s = doubly_driven(batches)[-1]
        print(f"two drivers from {began_s - parted_s:.2f} s on, until {ended_s - healed_s:.2f} s after the loss")
        assert parted_s <= began_s < healed_s
        assert ended_s <= healed_s + LEASE_S, "they find each other again at once"
