"""``make fuzz``: coverage-guided search, target after target, from what is kept; the exit status is 1 for a finding.

A finding is printed with its input in base64. Once mended, that line belongs into the target's corpus, which every
run of the tests tries.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import click

from benchmarks.harness.run import Run, page_head
from orchestrator.reporting.blocks import Heading, Table, render_markdown
from orchestrator.reporting.claim import Claim
from orchestrator.reporting.outputs import write_report
from tests.fuzzing.corpus import read_corpus, unpack, write_corpus
from tests.fuzzing.targets import TARGETS

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.fuzzing.search"])
_SLOW_S = 5
"""One input may take so long, where a parse takes milliseconds and instrumented code some ten times as much."""
_MEMORY_MIB = 2048
_LARGEST_BYTES = 8192
_LARGEST_CORPUS_BYTES = 12_000


@dataclass(frozen=True, slots=True)
class Search:
    """How one search ended.

    Attributes:
        target: The target's name.
        seconds: How long it ran.
        inputs: How many inputs were tried.
        edges: Branches of code that they reached together.
        findings: Inputs that failed, in base64, with the last line of what was printed.
    """

    target: str
    seconds: float
    inputs: int
    edges: int
    findings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """All searches.

    Attributes:
        seconds: Asked for each target.
        jobs: Searches at a time.
        searches: In the order they were begun.
    """

    seconds: int
    jobs: int
    searches: tuple[Search, ...]

    def write(self, path: Path) -> None:
        """Write the figures as JSON, and beside it as a page."""
        claims = (Claim("inputs that broke a parser", float(sum(len(s.findings) for s in self.searches)), "", 0.0),)
        prose = (
            "This page is written by `python -m tests.fuzzing.run --results docs/benchmarks/fuzz.json`, see `make "
            f"fuzz`. Each target was searched for {self.seconds} s by Atheris, {self.jobs} at a time, from the inputs "
            "that are kept in `tests/fuzzing/corpora`. A target is one parser that bytes from outside reach, with all "
            "that it must hold to; `tests/fuzzing/targets.py` lists them. Branches are those of instrumented Python "
            "code, so parsers in C (protobuf, JSON, YAML, zlib, HTTP/1.1) count few. Seconds have the start in them; "
            "inputs depend on what else the machine does."
        )
        rows = [
            (f"`{s.target}`", f"{s.seconds:.0f}", f"{s.inputs:,}", f"{s.edges:,}", str(len(s.findings)))
            for s in self.searches
        ]
        head = page_head("Bytes that break a parser", prose, self, claims)
        table = Table(("target", "seconds", "inputs", "branches", "findings"), rows)
        contents = {
            path.name: json.dumps(self.encode_with(claims), indent=1) + "\n",
            path.with_suffix(".md").name: render_markdown([*head, Heading(2, "Measured"), table]),
        }
        write_report(path.parent, contents, "name another with --results")


def search(name: str, seconds: int, *, seed: int, keep: bool) -> Search:
    """Search for so many seconds; with ``keep`` the smallest inputs that it found become the corpus.

    Searches of one seed try the same inputs, as far as they get; seed 0 stands for one that nobody chose.
    """
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found, failed = Path(folder) / "found", Path(folder) / "failed"
        found.mkdir()
        failed.mkdir()
        unpack(read_corpus(name), found)
        options = [f"-max_total_time={seconds}", f"-timeout={_SLOW_S}", f"-rss_limit_mb={_MEMORY_MIB}", f"-seed={seed}"]
        options += [f"-max_len={_LARGEST_BYTES}", f"-artifact_prefix={failed}/"]
        said = Path(folder) / "said"
        said.touch()
        searching = _FORKS.Process(target=_fork, args=(name, [str(found), *options], said))
        searching.start()
        searching.join()
        printed = said.read_text(errors="replace")
        if keep:  # libFuzzer adds what reaches new code, and replaces it where less does
            write_corpus(name, choose_kept(read_corpus(name), [path.read_bytes() for path in found.iterdir()]))
        reasons = re.findall(r"^(?: === Uncaught.*\n(.*)|==\d+== ERROR: (.*))$", printed, re.MULTILINE)
        why = " ".join(reasons[0]).strip() if reasons else ""
        findings = tuple((base64.b64encode(path.read_bytes()).decode(), why) for path in sorted(failed.iterdir()))
        if not findings and "DONE" not in printed and "Done" not in printed:
            raise click.ClickException(f"the search of {name} did not end well:\n{printed[-2000:]}")
    return Search(
        name, time.monotonic() - began_s, _last(r"#(\d+)\s", printed), _last(r"cov: (\d+)", printed), findings
    )


def choose_kept(old: Sequence[bytes], inputs: Iterable[bytes]) -> list[bytes]:
    """Return the old inputs, some of which broke a parser once, and the smallest new ones as far as there is room."""
    kept, room_bytes = list(old), _LARGEST_CORPUS_BYTES - sum(map(len, old))
    for data in sorted(set(inputs) - set(old), key=len):
        room_bytes -= len(data)
        if room_bytes < 0:
            break
        kept.append(data)
    return kept


def _fork(name: str, arguments: Sequence[str], printed: Path) -> None:
    from tests.fuzzing import search  # which instruments all that is imported with it

    search.search(name, arguments, printed)


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _show(done: Search) -> None:
    end = f" {len(done.findings)} findings" if done.findings else ""
    click.echo(f"{done.target:20} {done.seconds:6.0f} s {done.inputs:12,} inputs {done.edges:7,} branches{end}")
    for line, why in done.findings:
        click.echo(f"  {why}\n  {line}")


@click.command(help=__doc__)
@click.option("--seconds", type=click.IntRange(min=1), default=20, show_default=True, help="For each target.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Searches at a time.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Try the same inputs again; 0 is another each time."
)
@click.option("--keep", is_flag=True, help="Write back the smallest inputs that reached new code.")
@click.option("--results", type=click.Path(path_type=Path), help="Where the figures go, as JSON, and a page beside it.")
@click.argument("names", nargs=-1, type=click.Choice(list(TARGETS)))
def main(names: tuple[str, ...], seconds: int, jobs: int, seed: int, keep: bool, results: Path | None) -> None:
    """Search, one line a target."""
    began, searches = Run.begin(), []
    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(partial(search, seconds=seconds, seed=seed, keep=keep), names or TARGETS):
            searches.append(done)
            _show(done)
    if results is not None:
        head = {each.name: getattr(began, each.name) for each in fields(Run)}
        Results(**head, seconds=seconds, jobs=jobs, searches=tuple(searches)).write(results)
    sys.exit(any(done.findings for done in searches))


if __name__ == "__main__":
    main()
