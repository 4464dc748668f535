"""Who sends, through what, and how the gateways are restarted meanwhile; and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

from benchmarks.harness.run import Run
from benchmarks.restarts.proxies import PROBE_PERIOD_S, PROXIES
from orchestrator.reporting.claim import Claim

RATE_PER_S = 200
ROUNDS = 2
"""How often each gateway is restarted."""
HOWS = ("SIGTERM", "--replace")
CLIENTS = ("grpcio", "grpc-js", "grpc-go")
LAME_DUCK_S = 4 * PROBE_PERIOD_S
_NEED_NOTICE = ("Envoy",)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    Attributes:
        client: Who sends, with ``round_robin``.
        proxy: The balancer between; empty: none.
        how: How gateways are restarted.
        workers: Processes of each gateway.
        lame_duck_s: Of each gateway: seconds for which it says that it is not ready, and serves, before it leaves.
        shares: Whether the gateways are peers, so that each Triton goes from one to another at every restart.
    """

    client: str
    proxy: str
    how: str
    workers: int = 1
    lame_duck_s: float = 0.0
    shares: bool = False

    def __str__(self) -> str:
        """Return it in words."""
        through = f" through {self.proxy}" if self.proxy else ""
        more = f", {self.workers} workers" if self.workers > 1 else ""
        duck = f", lame_duck_s {self.lame_duck_s:g}" if self.lame_duck_s else ""
        return f"{self.client}{through}, {self.how}{more}{duck}{', sharing' if self.shares else ''}"


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
    one = (*direct, *several, *through)
    sharing = [replace(cell, shares=True) for cell in one if cell.client == "grpcio" and cell.proxy != "nginx"]
    return (*one, *sharing, *UNPROMISED)


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return how many calls failed for each client and balancer, and whether all were tried."""
    claims = []
    for name in (*CLIENTS, *PROXIES):
        promised = [(cell, outcome) for cell, outcome in results.cells if cell not in UNPROMISED and not cell.shares]
        found = [outcome for cell, outcome in promised if name == (cell.proxy or cell.client)]
        if found:
            answered = sum(outcome.answered for outcome in found)
            text = f"calls of {answered:,} that failed, {'through' if name in PROXIES else 'of'} {name}"
            claims.append(Claim(text, float(sum(outcome.failed for outcome in found)), "", 0.0))
    sharing = [outcome for cell, outcome in results.cells if cell.shares]
    if sharing:
        answered = sum(outcome.answered for outcome in sharing)
        failed = sum(outcome.failed for outcome in sharing)
        claims.append(
            Claim(f"calls of {answered:,} that failed, at gateways that share a fleet", float(failed), "", 0.0)
        )
    claims.append(Claim("clients and balancers that could not be tried", float(len(results.left_out)), "", 0.0))
    return tuple(claims)
