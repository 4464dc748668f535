"""``make attack``: every attack on a gateway, and the answers of a client who did nothing wrong.

Without addresses it runs a gateway in front of two real Tritons; with ``--grpc`` and ``--http`` it attacks the one
there, which must be yours. The exit status is 1 when a victim's request failed, or was answered later than is
promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from benchmarks.attack.attacks import ATTACKS
from benchmarks.attack.intrusions import Intrusion, make_attempts, try_all, write_tokens
from benchmarks.attack.victim import Met
from benchmarks.harness.command import (
    conclude,
    out_option,
    publish,
    read_run,
    repository_option,
    run_to_end,
    source_option,
    start_clock,
)
from benchmarks.harness.processes import list_children, read_held
from benchmarks.harness.programs import run_gateway, run_python
from benchmarks.harness.run import Run, page_head
from benchmarks.resilience.scenarios.testbed import Testbed, open_testbed
from orchestrator.config import AuthSettings, load_fleet, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import choose_free_ports
from orchestrator.reporting.blocks import Heading, Table, Text
from orchestrator.reporting.claim import Claim

_INTRUSIONS = (
    "At a gateway with tokens, before the same Tritons, each call over gRPC or HTTP is one that its caller may not "
    "make, or that would end a model; `benchmarks/attack/intrusions.py` has them all. Afterwards the processes of all "
    "models must be those of before."
)
ANSWER_BAR_S, PROBE_BAR_S = 0.150, 0.100
QUIET, REPLACED, INTRUSIONS = "nothing", "replaced-meanwhile", "intrusions"
_UNDER = "rapid-resets"  # what goes on while the gateway is replaced
_RELOAD_S = 3.0  # after which a gateway uses a new tokens file, with some room
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attack did.

    Attributes:
        attack: Its name.
        inferences: What became of the victim's inferences.
        probes: What became of its health probes.
        most_bytes: The most that the gateway's processes held in memory, together; None where they are not ours.
        before_bytes: What they held before; None likewise.
    """

    attack: str
    inferences: Met
    probes: Met
    most_bytes: int | None
    before_bytes: int | None

    @property
    def failed(self) -> int:
        """Requests of the victim that were not answered."""
        return sum(sum(met.errors.values()) for met in (self.inferences, self.probes))


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """All attacks, the quiet before them first.

    Attributes:
        outcomes: In the order they were made.
        intrusions: What was tried at a gateway with tokens.
        stubs_lost: Processes of models that ended over these; None where the Tritons are not ours.
        taken_later: When what was made after the others was, and the load in the minute before, by its name.
    """

    outcomes: tuple[Outcome, ...] = field(default=())
    intrusions: tuple[Intrusion, ...] = field(default=())
    stubs_lost: int | None = None
    taken_later: dict[str, str] = field(default_factory=dict)

    def with_outcome(self, outcome: Outcome) -> Results:
        """Return these with an outcome in place of that of the same attack, or behind the others."""
        outcomes = {each.attack: each for each in self.outcomes} | {outcome.attack: outcome}
        return replace(self, outcomes=tuple(outcomes.values()))


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway that is attacked; ``bed`` is None when it is not ours."""

    grpc: str
    http: str
    bed: Testbed | None = None

    @property
    def pid(self) -> int | None:
        """Its process, or the supervisor of its processes."""
        return None if self.bed is None else self.bed.gateway_pid


@asynccontextmanager
async def _target(repository: Path, grpc: str | None, http: str | None) -> AsyncIterator[Target]:
    if grpc and http:
        yield Target(grpc, http)
        return
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        async with open_testbed(repository, Path(folder), slowdown=1.0, extra_model="alone") as bed:
            yield Target(bed.grpc, bed.http, bed)


def _held_bytes(pid: int) -> int:
    return sum(read_held(each).rss_bytes for each in (pid, *list_children(pid)))


async def _most_bytes(pid: int | None) -> int | None:
    """Return the most memory that was held until cancelled."""
    most = None if pid is None else _held_bytes(pid)
    try:
        while True:
            await asyncio.sleep(0.05)
            if pid is not None and most is not None:
                most = max(most, _held_bytes(pid))
    except asyncio.CancelledError:
        return most


async def measure(name: str, target: Target, seconds: float, log: Path) -> Outcome:
    """Attack for so many seconds, and see what becomes of the victim meanwhile."""
    before = None if target.pid is None else _held_bytes(target.pid)
    watching = asyncio.create_task(_most_bytes(target.pid))
    where = (target.grpc, target.http, str(seconds))
    async with run_python("benchmarks.attack.victim", *where, log=log) as victim:
        if name == QUIET:
            printed, _ = await victim.communicate()
        else:
            async with run_python("benchmarks.attack.attacks", name, *where, log=log) as attacker:
                printed, _ = await victim.communicate()
                await attacker.wait()
    watching.cancel()
    found = {kind: Met(**met) for kind, met in json.loads(printed).items()}
    return Outcome(name, found["inferences"], found["probes"], await watching, before)


async def measure_replaced(bed: Testbed, seconds: float, log: Path) -> Outcome:
    """Replace the gateway while it is attacked, and see what becomes of the victim meanwhile."""
    replacing = asyncio.create_task(_replace(bed, seconds))
    try:
        outcome = await measure(_UNDER, Target(bed.grpc, bed.http), seconds, log)
    finally:
        replacing.cancel()
        await asyncio.wait([replacing])
    return replace(outcome, attack=REPLACED)


async def _replace(bed: Testbed, seconds: float) -> None:
    await asyncio.sleep(seconds / 4)  # when the victim has begun
    async with run_gateway(bed.folder / "fleet.yaml", int(bed.grpc.rpartition(":")[2]), "--replace"):
        await asyncio.Event().wait()


async def intrude(bed: Testbed) -> tuple[tuple[Intrusion, ...], int]:
    """Try what nobody may at a gateway with tokens before the same Tritons; also return how many stubs that ended."""
    folder = bed.folder / "tokens"
    folder.mkdir()
    grpc, http = (f"{LOOPBACK}:{port}" for port in choose_free_ports(2))
    write_tokens(folder / "tokens.yaml", with_revoked=True)
    fleet = load_fleet(bed.folder / "fleet.yaml")
    auth = AuthSettings(tokens_file=folder / "tokens.yaml")
    gateway = fleet.gateway.model_copy(update={"grpc": grpc, "http": http, "metrics": None, "auth": auth})
    (folder / "fleet.yaml").write_text(render_fleet(fleet.model_copy(update={"gateway": gateway})))
    stubs = {pid for server in bed.servers.values() for pid in server.server.stub_pids()}
    async with run_gateway(folder / "fleet.yaml", int(grpc.rpartition(":")[2])):
        write_tokens(folder / "tokens.yaml", with_revoked=False)
        await asyncio.sleep(_RELOAD_S)
        found = await try_all(grpc, http, make_attempts())
    left = {pid for server in bed.servers.values() for pid in server.server.stub_pids()}
    return found, len(stubs - left)


async def _run(
    results: Results, repository: Path, grpc: str | None, http: str | None, names: Sequence[str], seconds: float
) -> Results:
    """Return results with what came of attacks of these names."""
    say = start_clock()
    with tempfile.TemporaryDirectory(prefix="attack-log-") as folder:
        log = Path(folder) / "log"
        async with _target(repository, grpc, http) as target:
            for name in names:
                if name == INTRUSIONS:
                    if target.bed is not None:
                        intrusions, lost = await intrude(target.bed)
                        results = replace(results, intrusions=intrusions, stubs_lost=lost)
                        say("\n".join(" ".join(_intrusion_row(intrusion)) for intrusion in intrusions))
                    continue
                if name != REPLACED:
                    outcome = await measure(name, target, seconds, log)
                elif target.bed is not None:
                    outcome = await measure_replaced(target.bed, seconds, log)
                else:
                    continue
                results = results.with_outcome(outcome)
                say(" ".join(_row(outcome)))
                for reason, count in (outcome.inferences.errors | outcome.probes.errors).items():
                    say(f"    {count} of {reason}")
                await asyncio.sleep(1.0)
    return results


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return the bars of every attack together, held against the worst."""
    outcomes = [outcome for outcome in results.outcomes if outcome.attack != QUIET]

    def longest(kind: str) -> float:  # a second gateway that starts beside is no attack, and takes a processor
        return max(max(getattr(o, kind).latencies_s, default=0.0) for o in outcomes if o.attack != REPLACED)

    return (
        Claim("victims' requests not answered, over all attacks", float(sum(o.failed for o in outcomes)), "", 0.0),
        Claim("longest inference of a victim", 1e3 * longest("inferences"), "ms", 1e3 * ANSWER_BAR_S),
        Claim("longest health probe of a victim", 1e3 * longest("probes"), "ms", 1e3 * PROBE_BAR_S),
        *_draw_intrusion_claims(results),
    )


def _draw_intrusion_claims(results: Results) -> tuple[Claim, ...]:
    if results.stubs_lost is None:
        return ()
    answered = sum(intrusion.answered for intrusion in results.intrusions)
    return (
        Claim("intrusions that were answered", float(answered), "", 0.0),
        Claim("models' processes that ended over intrusions", float(results.stubs_lost), "", 0.0),
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    def times(met: Met) -> tuple[str, str, str]:
        latencies_s = sorted(met.latencies_s)
        sent = len(latencies_s) + sum(met.errors.values())
        if not latencies_s:
            return f"0 of {sent}", "", ""
        p99_s = latencies_s[int(0.99 * (len(latencies_s) - 1))]
        return f"{len(latencies_s)} of {sent}", f"{1e3 * p99_s:.0f}", f"{1e3 * latencies_s[-1]:.0f}"

    grown = "" if outcome.most_bytes is None else f"{(outcome.most_bytes - (outcome.before_bytes or 0)) / _MIB:.0f}"
    return (f"`{outcome.attack}`", *times(outcome.inferences), *times(outcome.probes), grown)


def _intrusion_row(intrusion: Intrusion) -> tuple[str, ...]:
    refused = ", ".join(f"{status} ({count})" for status, count in sorted(intrusion.statuses.items()))
    return intrusion.name, str(intrusion.tries), str(intrusion.answered), refused


_ALL = (QUIET, *ATTACKS, INTRUSIONS, REPLACED)


@click.command(help=__doc__)
@repository_option
@out_option
@source_option
@click.option("--grpc", help="host:port of a gateway that runs already.")
@click.option("--http", help="Its host:port of HTTP.")
@click.option("--seconds", type=click.FloatRange(min=1), default=8.0, show_default=True, help="Of each attack.")
@click.option("--only", multiple=True, type=click.Choice(_ALL), help="These alone; written with --from only.")
def main(
    repository: Path,
    out: Path,
    source: Path | None,
    grpc: str | None,
    http: str | None,
    seconds: float,
    only: tuple[str, ...],
) -> None:
    """Attack, print and write."""
    if (grpc is None) != (http is None):
        raise click.UsageError("give both --grpc and --http, or neither")
    results = Results.begin() if source is None else read_run(Results, source, "attacks")
    wanted = only if source is not None else only or _ALL
    names = [name for name in _ALL if name in wanted]  # the last one leaves another gateway behind
    if names:
        results = run_to_end(_run(results, repository, grpc, http, names, seconds))
    if source is not None:
        now = Results.begin()
        later = dict.fromkeys(names, f"{now.taken_at}, with a load of {os.getloadavg()[0]:.2f} in the minute before")
        results = replace(results, taken_later=results.taken_later | later)
    claims = draw_claims(results)
    if source is not None or not only:
        head = "What one client can do to the others"
        prose = (
            "This page is written by `make attack`. A gateway with its default settings stands before two real "
            "Tritons. A victim sends 50 inferences a second over gRPC, with a deadline of 1 s. It also sends 10 health "
            "probes a second over HTTP, each on a new connection. Meanwhile one attacker, who knows no token, does for "
            f"{seconds:g} s what a row says; `benchmarks/attack/attacks.py` says how. Attacker, victim, gateway and "
            f"Tritons share the processors. In the row `{REPLACED}` the attack is `{_UNDER}`, and another gateway "
            "takes over from the first meanwhile; its start takes a processor, so that row counts for the first claim "
            "alone."
        )
        columns = ("attack", "inferences answered", "p99 ms", "longest ms", "probes answered", "p99 ms", "longest ms")
        table = Table((*columns, "memory grew by MiB"), list(map(_row, results.outcomes)))
        notes = [Text(f"`{name}` was taken later, at {when}.") for name, when in results.taken_later.items()]
        page = [*page_head(head, prose, results, claims), Heading(2, "Measured"), *notes, table]
        if results.intrusions:
            rows = list(map(_intrusion_row, results.intrusions))
            tried = Table(("what was tried", "calls", "answered", "refused as"), rows)
            page += [Heading(2, "What nobody may"), Text(_INTRUSIONS), tried]
        publish("attack", out, results.encode_with(claims), page)
    conclude(claims)


if __name__ == "__main__":
    main()
