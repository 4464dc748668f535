"""Commands, options and metrics that pages name are there, so that nobody types in vain during an incident."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools.cli_reference import commands

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "CHANGELOG.md")
COMMANDS = dict(commands())
_BLOCK = re.compile(r"^```(?:console|bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(slimsched [^`]*)`")
_METRIC = re.compile(r"\bslim_(?:gateway|router|controller|background)_[a-z_]+")


def named_commands(text: str) -> Iterator[str]:
    """Yield the command lines of a page that begin with slimsched, in blocks and in running text."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if line.startswith("slimsched "):
                yield re.split(r" [|>&] ?|#", line)[0]
    yield from (
        " ".join(found.split()) for found in _SPAN.findall(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    )


def find_problem(line: str) -> str | None:
    """Return what of a command line is not there; None: nothing. Other words are passed over."""
    words = shlex.split(line.replace("…", "X").replace("...", "X"))
    path, rest = "slimsched", words[1:]
    while rest and f"{path} {rest[0]}" in COMMANDS:
        path, rest = f"{path} {rest[0]}", rest[1:]
    command = COMMANDS[path]
    if path == "slimsched" and rest and not rest[0].startswith("-") and rest[0].islower():
        return f"no command {rest[0]!r}"
    known = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    known |= {"--help", "-h"}
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    unknown = sorted(given - known)
    return f"{path} has no {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    found = {line: find_problem(line) for line in named_commands(page.read_text())}
    assert {line: problem for line, problem in found.items() if problem} == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("slimsched status --fleet fleet.yaml --json", None),
        ("slimsched local up --server 2", "slimsched local up has no --server"),
        ("slimsched statsu", "no command 'statsu'"),
    ],
)
def test_what_is_not_there_is_found(line: str, problem: str | None) -> None:
    assert find_problem(line) == problem


def test_every_metric_that_the_runbook_names_is_there() -> None:
    source = "".join(path.read_text() for path in ROOT.glob("orchestrator/**/*.py"))
    written = set(_METRIC.findall(source))  # of some only the beginning, the rest is put behind
    begun = tuple(name for name in written if name.endswith("_"))
    named = {name.removesuffix("_total") for name in _METRIC.findall((ROOT / "docs" / "operate.md").read_text())}
    assert len(named) > 20
    assert [name for name in sorted(named) if name not in written and not name.startswith(begun)] == []
