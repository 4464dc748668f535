"""Hosts as network namespaces around a router, which loses what goes between two addresses when they are parted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest


class Hosts:
    """Namespaces by name, each with addresses of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._prefix = f"slim{os.getpid()}-"
        self._count = 0
        self._parted: list[tuple[str, str]] = []
        self._add_namespace("router")
        ip("netns", "exec", self._name("router"), "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def add(self, host: str, addresses: int = 1) -> list[str]:
        """Make a host and return its addresses."""
        self._add_namespace(host)
        self._count += 1
        network = f"10.88.{self._count}"
        own, router = self._name(host), self._name("router")
        ip("link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", host, "netns", router)
        found = [f"{network}.{2 + number}" for number in range(addresses)]
        for namespace, device, given in ((own, "eth0", found), (router, host, [f"{network}.1"])):
            for address in given:
                ip("-n", namespace, "address", "add", f"{address}/24", "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
        ip("-n", own, "route", "add", "default", "via", f"{network}.1")
        return found

    def run_in(self, host: str) -> Sequence[str]:
        """Return what to put before a command that is to run on a host."""
        return "ip", "netns", "exec", self._name(host)

    def part(self, one: str, other: str) -> None:
        """Lose from now on without a word what goes between two addresses."""
        for pair in ((one, other), (other, one)):
            self._rule("add", *pair)
            self._parted.append(pair)

    def heal(self) -> None:
        """Lose nothing any more."""
        while self._parted:
            self._rule("del", *self._parted.pop())

    def _rule(self, verb: str, source: str, target: str) -> None:
        ip("-n", self._name("router"), "rule", verb, "from", source, "to", target, "blackhole")

    def _name(self, host: str) -> str:
        return self._prefix + host

    def _add_namespace(self, host: str) -> None:
        ip("netns", "add", self._name(host))
        self._stack.callback(ip, "netns", "delete", self._name(host))
        ip("-n", self._name(host), "link", "set", "lo", "up")


def ip(*arguments: str) -> None:
    """Run iproute2's command; raises CalledProcessError."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def open_hosts() -> Iterator[Hosts]:
    """Yield a network without hosts; where namespaces can't be made the test is skipped."""
    if shutil.which("ip") is None:
        pytest.skip("needs network namespaces: there is no command 'ip'; apt-get install iproute2")
    with ExitStack() as stack:
        try:
            hosts = Hosts(stack)
            hosts.add("probe")
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces can't be made here ({exc.stderr.strip()}); run the tests as root")
        yield hosts
