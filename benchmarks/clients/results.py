"""What a run found, and what it was to find."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.run import Run
from orchestrator.reporting.claim import Claim

PLAIN, SECURED = "plain", "TLS, token, two workers"


@dataclass(frozen=True, slots=True)
class AnalyzerRun:
    """One run of ``perf_analyzer``.

    Attributes:
        name: The analysis.
        place: ``PLAIN`` or ``SECURED``.
        requests: Requests that were answered.
        problem: What went wrong; empty when nothing did.
    """

    name: str
    place: str
    requests: int
    problem: str


@dataclass(frozen=True, slots=True)
class KserveCall:
    """One call of a kserve client, at a gateway and straight to a Triton.

    Attributes:
        client: ``gRPC`` or ``REST``.
        name: The call.
        place: ``PLAIN`` or ``SECURED``.
        ours: What the gateway gives, in short.
        theirs: What Triton gives, in short.
        is_same: Whether both are equal, which is judged on the whole answers.
    """

    client: str
    name: str
    place: str
    ours: str
    theirs: str
    is_same: bool


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """A whole run.

    Attributes:
        runs: Of perf_analyzer.
        kserve: Calls of kserve's clients.
        kserve_left_out: Public methods of theirs that no call tries.
        kserve_problem: Why they were not tried; empty: they were.
    """

    runs: tuple[AnalyzerRun, ...]
    kserve: tuple[KserveCall, ...]
    kserve_left_out: tuple[str, ...]
    kserve_problem: str


def draw_claims(results: Results) -> tuple[Claim, ...]:
    """Return what is promised of clients, with what was found."""
    failed = sum(bool(run.problem) for run in results.runs)
    differing = None if results.kserve_problem else float(sum(not call.is_same for call in results.kserve))
    left_out = None if results.kserve_problem else float(len(results.kserve_left_out))
    return (
        Claim(f"perf_analyzer runs of {len(results.runs)} that failed", float(failed), "", 0),
        Claim(f"kserve calls of {len(results.kserve)} answered otherwise than by Triton", differing, "", 0),
        Claim("public methods of kserve's clients that were not tried", left_out, "", 0),
    )
