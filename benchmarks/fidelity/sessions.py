"""Sittings on disk: a comparison is made in pieces, each with servers, a profile and rounds of its own.

A shared machine is quiet for some minutes at a time, and one start of the servers says less than several. A sitting is
a JSON file in a folder; the page is made of all that are there. Rounds are numbered on, so no two have the same
arrivals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.fidelity.compare import Figures, Round
from orchestrator.errors import ConfigError
from orchestrator.profile import Profile


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One width on one server, in seconds.

    Attributes:
        server: its name.
        width: in percent.
        alone_s: of the smallest and the largest batch, one at a time.
        busy_s: of them, of a busy server.
        rested_s: of them, after a rest.
        spread: standard deviation of one at a time over its mean; median over batch sizes.
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
        rate_rps: requests a second.
        repeated: rounds of a policy that were run again, because the machine stood still.
        profile: that was measured and simulated.
        rounds: all policies, all rounds.
    """

    taken_at: str
    rate_rps: float
    repeated: int
    profile: tuple[ProfileRow, ...]
    rounds: tuple[Round, ...]


def profile_rows(profile: Profile) -> tuple[ProfileRow, ...]:
    """Return what a page tells of a profile that was taken under load."""
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
    """Return the sittings in a folder, in their order.

    Raises:
        ConfigError: when a file there is none.
    """
    found = []
    for path in sorted(folder.glob("sitting-*.json")):
        try:
            found.append(_parse(json.loads(path.read_text())))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"{path} is no sitting ({exc}); remove {folder} and begin anew") from exc
    return tuple(found)


def write_session(session: Session, folder: Path, *, number: int) -> None:
    """Write a sitting into a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"sitting-{number:02d}.json").write_text(json.dumps(asdict(session), indent=1) + "\n")


def next_round(sessions: Sequence[Session]) -> int:
    """Return the number of the first round that no sitting has."""
    return 1 + max((each.number for session in sessions for each in session.rounds), default=-1)


def _parse(values: dict[str, Any]) -> Session:
    rounds = tuple(
        Round(each["policy"], each["number"], Figures(**each["real"]), Figures(**each["simulated"]))
        for each in values["rounds"]
    )
    rows = tuple(
        ProfileRow(
            row["server"],
            row["width"],
            (row["alone_s"][0], row["alone_s"][1]),
            (row["busy_s"][0], row["busy_s"][1]),
            (row["rested_s"][0], row["rested_s"][1]),
            row["spread"],
        )
        for row in values["profile"]
    )
    return Session(values["taken_at"], values["rate_rps"], values["repeated"], rows, rounds)
