"""Sessions on disk: a comparison is made in pieces, each with servers, a profile and rounds of its own.

A shared machine is quiet for some minutes at a time, and one start of the servers says less than several. A session is
a line of JSON; the page is made of all that are there. Rounds are numbered on, so no two have the same arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.fidelity.compare import Round
from orchestrator.profile.document import Profile
from orchestrator.reporting.journal import Journal


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One width on one server, in seconds.

    Attributes:
        server: The server's name.
        width: The width, in percent.
        alone_s: Time of the smallest and the largest batch, one at a time.
        busy_s: What they take of a busy server.
        rested_s: Their time after a rest.
        spread: Standard deviation of one at a time over its mean; median over batch sizes.
    """

    server: str
    width: int
    alone_s: tuple[float, float]
    busy_s: tuple[float, float]
    rested_s: tuple[float, float]
    spread: float


@dataclass(frozen=True, slots=True)
class Session:
    """What one start of the servers has found.

    Attributes:
        taken_at: ISO 8601.
        rate_rps: Requests a second.
        repeated: Rounds of a policy that were run again, because the machine stood still.
        profile: The profile that was measured and simulated.
        rounds: All policies, all rounds.
    """

    taken_at: str
    rate_rps: float
    repeated: int
    profile: tuple[ProfileRow, ...]
    rounds: tuple[Round, ...]


_SESSION = TypeAdapter(Session)


def profile_rows(profile: Profile) -> tuple[ProfileRow, ...]:
    """Return what a page shows of a profile that was taken under load."""
    rows = []
    for server in profile.servers:
        for model in server.models:
            first, last = model.batches[0], model.batches[-1]
            spreads = sorted(batch.std_s / batch.mean_s for batch in model.batches)
            rows.append(
                ProfileRow(
                    server.name,
                    model.width,
                    (first.mean_s, last.mean_s),
                    (first.busy_s or first.mean_s, last.busy_s or last.mean_s),
                    (first.rested_s or first.mean_s, last.rested_s or last.mean_s),
                    spreads[len(spreads) // 2],
                )
            )
    return tuple(rows)


def read_sessions(folder: Path) -> tuple[Session, ...]:
    """Return the sessions in a folder, in their order; raises ConfigError when what is there is damaged."""
    found: list[Session] = []
    _open(folder, lambda number, values: found.append(_SESSION.validate_python(values)))
    return tuple(found)


def add_session(session: Session, folder: Path) -> None:
    """Add a session to a folder, which is made where there is none."""
    with _open(folder, lambda number, values: None) as journal:
        journal.write(asdict(session))


def _open(folder: Path, replay: Callable[[int, Any], None]) -> Journal:
    return Journal(folder / "sessions.jsonl", replay, remedy=f"remove {folder} and begin anew")


def next_round(sessions: Sequence[Session]) -> int:
    """Return the number of the first round that no session has."""
    return 1 + max((each.number for session in sessions for each in session.rounds), default=-1)
