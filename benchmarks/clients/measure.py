"""A run: every analysis at the plain gateway, the family's at the secured one, kserve's calls at all three testbed."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clients.analyses import FAMILY, Analysis, analyses, find_analyzer, run_analysis, secured_options
from benchmarks.clients.results import PLAIN, SECURED, AnalyzerRun, KserveCall
from benchmarks.clients.testbed import Endpoint, Testbed
from benchmarks.harness.command import Say
from orchestrator.errors import ConfigError, PermanentError

KSERVE_CALLS = Path(__file__).with_name("kserve_calls.py")
KSERVE_TIMEOUT_S = 120.0
FULL_WIDTH = 100
_SHORT = 70


@dataclass(frozen=True, slots=True)
class KserveFound:
    """What kserve's clients were answered.

    Attributes:
        version: The version of the package.
        calls: Calls at the gateways, each beside Triton's.
        left_out: Methods without a case.
    """

    version: str
    calls: tuple[KserveCall, ...]
    left_out: tuple[str, ...]


async def run_analyses(testbed: Testbed, say: Say) -> tuple[AnalyzerRun, ...]:
    """Run perf_analyzer again and again, one at a time; raises ConfigError when it is not installed."""
    if find_analyzer() is None:
        raise ConfigError("no perf_analyzer beside this python; run: make bench-clients")
    runs = []
    for analysis in analyses():
        runs.append(await _run(analysis, PLAIN, testbed.plain, say))
    for analysis in analyses():
        if analysis.model == FAMILY and not analysis.special:
            runs.append(await _run(analysis, SECURED, testbed.secured, say))
    return tuple(runs)


async def _run(analysis: Analysis, name: str, endpoint: Endpoint, say: Say) -> AnalyzerRun:
    address = endpoint.grpc if analysis.protocol == "grpc" else endpoint.http
    more: tuple[str, ...] = ()
    if endpoint.authority is not None:
        more = secured_options(analysis.protocol, endpoint.authority, endpoint.token)
        address = address if analysis.protocol == "grpc" else f"https://{address}"
    found = await asyncio.to_thread(run_analysis, analysis, address, more)
    say(f"  {name}: {analysis}: {found.problem or f'{found.requests} answered'}")
    return AnalyzerRun(str(analysis), name, found.requests, found.problem)


async def run_kserve(python: Path, testbed: Testbed) -> KserveFound:
    """Make every call of kserve's clients, by a Python that has the package; raises PermanentError if it can't."""
    found = {}
    for name, endpoint in (("triton", testbed.triton), (PLAIN, testbed.plain), (SECURED, testbed.secured)):
        asked = _describe(endpoint, is_triton=name == "triton")
        found[name] = await asyncio.to_thread(_ask, python, asked)
    calls = [call for name in (PLAIN, SECURED) for call in _compare(name, found[name], found["triton"])]
    left_out = found[PLAIN]["left_out"]
    return KserveFound(found[PLAIN]["version"], tuple(calls), tuple(left_out))


def _describe(endpoint: Endpoint, *, is_triton: bool) -> dict[str, Any]:
    scheme = "http" if endpoint.authority is None else "https"
    return {
        "grpc": endpoint.grpc,
        "http": f"{scheme}://{endpoint.http}",
        "authority": None if endpoint.authority is None else str(endpoint.authority),
        "headers": {"authorization": f"Bearer {endpoint.token}"} if endpoint.token else {},
        # Triton has no family: the width that the gateway has to take is asked there by its name.
        "family": f"{FAMILY}_w{FULL_WIDTH:03d}" if is_triton else FAMILY,
        "parameters": {} if is_triton else {"slim_width": FULL_WIDTH},
    }


def _ask(python: Path, endpoint: dict[str, Any]) -> dict[str, Any]:
    command = [str(python), str(KSERVE_CALLS), json.dumps(endpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=KSERVE_TIMEOUT_S, check=False)
    if done.returncode:
        raise PermanentError(f"kserve's calls ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def _compare(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[KserveCall]:
    for client, answers in ours["answers"].items():
        for call, answer in answers.items():
            other = theirs["answers"][client][call]
            yield KserveCall(client, call, name, _shorten(answer), _shorten(other), answer == other)


def _shorten(answer: Any) -> str:
    if isinstance(answer, dict):
        outputs = ", ".join(f"{name} {datatype} {shape}" for name, datatype, shape, _ in answer["outputs"])
        return f"id {answer['id']!r}, {outputs}" if answer["id"] else outputs
    text = " ".join(str(answer).split())
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"
