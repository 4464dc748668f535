"""``python -m benchmarks.restarts``: restart gateways under every client, write page and JSON, show the claims."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.harness.command import conclude, out_option, publish, repository_option, run_to_end, start_clock
from benchmarks.restarts.cells import Results, draw_claims
from benchmarks.restarts.measure import run
from benchmarks.restarts.page import make_page


@click.command()
@repository_option
@out_option
@click.option("--node-modules", type=click.Path(path_type=Path), help="A folder with @grpc/grpc-js.")
@click.option("--only", multiple=True, help="Cells whose words hold this; nothing is written then.")
def main(repository: Path, out: Path, node_modules: Path | None, only: tuple[str, ...]) -> None:
    """Restart gateways under load; the exit status is 1 when a claim is not met."""
    results = run_to_end(_run(repository, node_modules, only))
    claims = draw_claims(results)
    if not only:
        publish("restarts", out, results.encode_with(claims), list(make_page(results)), indent=1)
    conclude(claims)


async def _run(repository: Path, node_modules: Path | None, only: tuple[str, ...]) -> Results:
    began_s, say = time.monotonic(), start_clock()
    with tempfile.TemporaryDirectory(prefix="bench-restarts-") as folder:
        modules = None if node_modules is None else node_modules.absolute()
        results = await run(repository, Path(folder), modules, only, say)
    return replace(results, took_s=time.monotonic() - began_s)


if __name__ == "__main__":
    main()
