"""``python -m benchmarks.clients``: try all clients, write page and JSON, show which claims are met."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.clients.measure import KserveFound, run_analyses, run_kserve
from benchmarks.clients.page import make_page
from benchmarks.clients.results import Results, draw_claims
from benchmarks.clients.testbed import Testbed, open_testbed
from benchmarks.harness.claims import encode_claim
from benchmarks.harness.command import Say, conclude, out_option, publish, repository_option, run_to_end, start_clock
from orchestrator.errors import SlimError


@click.command()
@repository_option
@out_option
@click.option("--kserve", type=click.Path(path_type=Path), help="The Python of an environment that has kserve.")
def main(repository: Path, out: Path, kserve: Path | None) -> None:
    """Send foreign clients to a gateway; the exit status is 1 when a claim is not met."""
    results = run_to_end(_run(repository, kserve, start_clock()))
    claims = draw_claims(results)
    document = {"claims": list(map(encode_claim, claims)), **results.encode()}
    publish("clients", out, document, list(make_page(results)), indent=1)
    conclude(claims)


async def _run(repository: Path, kserve: Path | None, say: Say) -> Results:
    results = Results.begin(runs=(), kserve=(), kserve_left_out=(), kserve_problem="")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-clients-") as folder:
        async with open_testbed(repository, Path(folder)) as testbed:
            say("kserve")
            found, problem = await _try_kserve(kserve, testbed)
            say(problem or f"  {len(found.calls)} calls")
            say("perf_analyzer")
            runs = await run_analyses(testbed, say)
    return replace(
        results,
        took_s=time.monotonic() - began_s,
        versions=results.versions | ({"kserve": found.version} if found.version else {}),
        runs=runs,
        kserve=found.calls,
        kserve_left_out=found.left_out,
        kserve_problem=problem,
    )


async def _try_kserve(python: Path | None, testbed: Testbed) -> tuple[KserveFound, str]:
    if python is None or not python.exists():
        missing = "--kserve is not given" if python is None else f"there is no {python}"
        return KserveFound("", (), ()), f"kserve was not tried: {missing}; run: make bench-clients"
    try:
        return await run_kserve(python, testbed), ""
    except SlimError as exc:
        return KserveFound("", (), ()), f"kserve was not tried: {exc}"


if __name__ == "__main__":
    main()
