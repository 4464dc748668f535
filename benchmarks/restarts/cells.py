"""Who sends, through what, and how the gateways are restarted meanwhile; and what became of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness.run import Run
from benchmarks.restarts.proxies import PROBE_PERIOD_S, PROXIES, find_installed
from orchestrator.errors import ConfigError
from orchestrator.reporting.claim import Claim

RATE_PER_S = 200
ROUNDS = 2
"""How often each gateway is restarted."""
HOWS = ("SIGTERM", "--replace")
CLIENTS = ("grpcio", "grpc-js", "grpc-go")
LAME_DUCK_S = 4 * PROBE_PERIOD_S
_NEED_NOTICE = ("Envoy",)
_SOURCES = Path(__file__).parent / "clients"
_GO_PATH = "/usr/share/gocode"  # of Debian's packages


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    Attributes:
        client: Who sends, with ``round_robin``.
        proxy: The balancer between; empty: none.
        how: How gateways are restarted.
        workers: Processes of each gateway.
        lame_duck_s: Of each gateway: seconds for which it says that it is not ready, and serves, before it leaves.
    """

    client: str
    proxy: str
    how: str
    workers: int = 1
    lame_duck_s: float = 0.0

    def __str__(self) -> str:
        """Return it in words."""
        through = f" through {self.proxy}" if self.proxy else ""
        more = f", {self.workers} workers" if self.workers > 1 else ""
        duck = f", lame_duck_s {self.lame_duck_s:g}" if self.lame_duck_s else ""
        return f"{self.client}{through}, {self.how}{more}{duck}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the calls of a cell.

    Attributes:
        answered: Calls that were.
        longest_s: The longest of them, from when it was due.
        errors: Why the others failed, and how often.
        restarts: How often a gateway was restarted meanwhile.
    """

    answered: int
    longest_s: float
    errors: dict[str, int]
    restarts: int

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(self.errors.values())


UNPROMISED = tuple(Cell("grpcio", name, HOWS[0]) for name in _NEED_NOTICE)
"""Measured to show what the notice is for; no claim is drawn from them."""


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """A run.

    Attributes:
        cells: What was measured, and what was found.
        left_out: Why a client or a balancer was not tried, by its name.
    """

    cells: tuple[tuple[Cell, Outcome], ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def list_cells() -> tuple[Cell, ...]:
    """Return all cells: every client without a balancer, and grpcio through each."""
    direct = [Cell(client, "", how) for client, how in product(CLIENTS, HOWS)]
    several = [Cell("grpcio", "", how, workers=2) for how in HOWS]
    through = [
        Cell("grpcio", name, how, lame_duck_s=LAME_DUCK_S if name in _NEED_NOTICE else 0.0)
        for name, how in product(PROXIES, HOWS)
    ]
    return (*direct, *several, *through, *UNPROMISED)


def client_command(client: str, folder: Path, modules: Path | None) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the command of a client and what its environment needs; what has to be built is built into a folder.

    ``modules`` is a folder ``node_modules`` with @grpc/grpc-js. Raises ConfigError where something is missing.
    """
    if client == "grpcio":
        return (sys.executable, "-m", "benchmarks.restarts.clients.grpcio_client"), {}
    if client == "grpc-js":
        if modules is None or not (modules / "@grpc" / "grpc-js").is_dir():
            raise ConfigError("no @grpc/grpc-js; give a folder with it by --node-modules")
        node = find_installed("node", "nodejs")
        return (str(node), str(_SOURCES / "grpc_js_client.cjs")), {"NODE_PATH": str(modules)}
    program = folder / "grpc_go_client"
    if not program.exists():
        go = find_installed("go", "golang-go")
        build = [str(go), "build", "-o", str(program), str(_SOURCES / "grpc_go_client.go")]
        own = {"GO111MODULE": "off", "GOPATH": _GO_PATH}
        done = subprocess.run(build, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"grpc-go can't be built; install golang-google-grpc-dev ({done.stderr.strip()[:200]})")
    return (str(program),), {}


async def read_version(client: str, modules: Path | None) -> str:
    """Return the version of a client's library, of one that is installed."""
    if client == "grpc-js":
        assert modules is not None
        package: dict[str, Any] = json.loads((modules / "@grpc" / "grpc-js" / "package.json").read_text())
        return str(package["version"])
    source = Path(_GO_PATH, "src/google.golang.org/grpc/version.go").read_text()
    return source.partition('const Version = "')[2].partition('"')[0]


async def read_proxy_version(name: str) -> str:
    """Return the version that a balancer tells."""
    proxy = PROXIES[name]
    command = [str(proxy.find()), *proxy.version]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return how many calls failed for each client and balancer, and whether all were tried."""
    claims = []
    for name in (*CLIENTS, *PROXIES):
        promised = [(cell, outcome) for cell, outcome in results.cells if cell not in UNPROMISED]
        found = [outcome for cell, outcome in promised if name == (cell.proxy or cell.client)]
        if found:
            answered = sum(outcome.answered for outcome in found)
            text = f"calls of {answered:,} that failed, {'through' if name in PROXIES else 'of'} {name}"
            claims.append(Claim(text, float(sum(outcome.failed for outcome in found)), "", 0.0))
    claims.append(Claim("clients and balancers that could not be tried", float(len(results.left_out)), "", 0.0))
    return tuple(claims)
