"""Which runs of ``perf_analyzer`` there are, and one of them: did it run, and did any request fail?"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

FAMILY, ONE_WIDTH = "fashion", "fashion_w050"
CONCURRENCY, RATE_RPS = 4, 50
REQUESTS = 60
"""That each run sends and counts; it asks whether they are answered, so more would say no more."""
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Analysis:
    """One run.

    Attributes:
        protocol: ``grpc`` or ``http``.
        model: The model that is asked for: the family, or one that is passed through.
        mode: ``sync``, ``async`` or ``streaming``.
        batch: Items in a request.
        is_rate: Whether requests are sent at a rate, else by so many at a time.
        special: What else is asked for, in words; empty: nothing.
        options: The options that ask for it.
        requests: Requests that must be answered.
    """

    protocol: str
    model: str
    mode: str
    batch: int
    is_rate: bool
    special: str = ""
    options: tuple[str, ...] = ()
    requests: int = REQUESTS

    def __str__(self) -> str:
        """Return what distinguishes it from the others."""
        load = f"{RATE_RPS} requests/s" if self.is_rate else f"concurrency {CONCURRENCY}"
        special = f", {self.special}" if self.special else ""
        return f"{self.protocol}, {self.model}, {self.mode}, batch {self.batch}, {load}{special}"

    def arguments(self, address: str) -> list[str]:
        """Return the command's arguments for a server at ``address``."""
        modes = {"sync": ("--sync",), "async": ("--async",), "streaming": ("--async", "--streaming")}
        load = ("--request-rate-range", str(RATE_RPS)) if self.is_rate else ("--concurrency-range", str(CONCURRENCY))
        return [
            *("-i", self.protocol, "-u", address, "-m", self.model, "-b", str(self.batch)),
            *modes[self.mode],
            *load,
            *("--request-count", str(self.requests)),
            *self.options,
        ]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a run.

    Attributes:
        requests: Requests that were answered.
        problem: Why the run does not count; empty: it does.
    """

    requests: int
    problem: str


def analyses() -> tuple[Analysis, ...]:
    """Return the matrix: everything with everything, then what is asked for beside."""
    modes = {"grpc": ("sync", "async", "streaming"), "http": ("sync", "async")}
    cells = [
        Analysis(protocol, model, mode, batch, is_rate)
        for protocol in ("grpc", "http")
        for model, mode, batch, is_rate in product((FAMILY, ONE_WIDTH), modes[protocol], (1, 8), (False, True))
    ]
    return (*cells, *_special())


def _special() -> list[Analysis]:
    def special(protocol: str, mode: str, batch: int, words: str, *options: str) -> Analysis:
        return Analysis(protocol, FAMILY, mode, batch, False, words, options)

    json_both = ("--input-tensor-format", "json", "--output-tensor-format", "json")
    poisson = ("--request-distribution", "poisson")
    return [
        Analysis("grpc", FAMILY, "async", 1, True, "Poisson arrivals", poisson),
        special("grpc", "sync", 1, "width pinned", "--request-parameter", "slim_width:25:int"),
        special("grpc", "streaming", 1, "width pinned", "--request-parameter", "slim_width:100:int"),
        special("grpc", "sync", 8, "gzip", "--grpc-compression-algorithm", "gzip"),
        special("grpc", "async", 8, "deflate", "--grpc-compression-algorithm", "deflate"),
        special("grpc", "streaming", 8, "gzip", "--grpc-compression-algorithm", "gzip"),
        special("grpc", "async", 1, "zeros, no shared memory", "--input-data", "zero", "--shared-memory", "none"),
        special("http", "sync", 1, "JSON to the gateway", "--input-tensor-format", "json"),
        special("http", "sync", 1, "JSON from the gateway", "--output-tensor-format", "json"),
        special("http", "async", 8, "JSON both ways", *json_both),
        special("http", "sync", 1, "a header of its own", "-H", "x-own: value"),
    ]


def secured_options(protocol: str, authority: Path, token: str) -> tuple[str, ...]:
    """Return the options that speak TLS, trust an authority and show a token."""
    header = ("-H", f"authorization: Bearer {token}")
    if protocol == "grpc":
        return ("--ssl-grpc-use-ssl", "--ssl-grpc-root-certifications-file", str(authority), *header)
    peer = ("--ssl-https-verify-peer", "1", "--ssl-https-verify-host", "2")
    return (*peer, "--ssl-https-ca-certificates-file", str(authority), *header)


def find_analyzer() -> Path | None:
    """Return the program of the wheel perf-analyzer; None when it is not installed."""
    path = Path(sys.executable).with_name("perf_analyzer")
    return path if path.exists() else None


def run_analysis(analysis: Analysis, address: str, more: Sequence[str] = ()) -> Finding:
    """Run ``perf_analyzer`` once, which must be installed."""
    with tempfile.TemporaryDirectory(prefix="perf-") as folder:
        report = Path(folder) / "report.csv"
        command = [str(find_analyzer()), *analysis.arguments(address), "-f", str(report), *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return Finding(0, f"not done after {TIMEOUT_S:g} s")
        output = done.stdout + done.stderr
        if done.returncode or not report.exists():
            return Finding(0, f"status {done.returncode}: {' '.join(output.split())[-400:]}")
        found = re.search(r"Request count: (\d+)", output)
        requests = 0 if found is None else int(found[1])
        if requests < analysis.requests:
            return Finding(requests, f"{requests} of {analysis.requests} requests answered")
        bad = [line for line in output.splitlines() if "failed" in line.lower()]
        if bad:
            return Finding(requests, " ".join(bad)[:400])
        return Finding(requests, "")
