"""`docs/cli.md`: every command with its arguments, options and examples, from click's own description of them.

The file is generated, so that no option can be missing there or have another default; a test fails when it differs
from what is returned here. To write it again:

    python -m tools.cli_reference
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from orchestrator.cli import main

PAGE: Final = Path(__file__).parents[1] / "docs" / "cli.md"

_INTRODUCTION = """\
# Commands

Every command has `--help`. Errors are one line, and the exit status is then 1, or 2 where the command line itself is
wrong; `slimsched --debug …` shows where an error came from. Where a command has both,
`--config` and `--fleet` are the same option.

Shells complete commands and options: see the README. `make docs` also writes manual pages: `man -M build/man
slimsched-gateway` shows one.

"""


def render_page() -> str:
    """Return the text of docs/cli.md."""
    root = click.Context(main, info_name="slimsched")
    return _INTRODUCTION + "\n".join(_commands(main, root)).rstrip() + "\n"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command and group with its whole name, such as ``slimsched local up``; the root first."""
    return _walk(main, click.Context(main, info_name="slimsched"))


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                yield from _walk(inner, click.Context(inner, info_name=name, parent=context))


def _commands(command: click.Command, context: click.Context) -> Iterator[str]:
    for path, each in _walk(command, context):
        inside = click.Context(each, info_name=path)
        yield f"## `{path}`\n\n```text\n{path} {' '.join(each.collect_usage_pieces(inside))}\n```\n"
        yield from _help(each)
        options = (option for option in each.params if isinstance(option, click.Option) and not option.hidden)
        rows = [_row(option, inside) for option in options]
        if rows:
            yield "| option | value | default | meaning |\n|---|---|---|---|"
            yield "\n".join(rows) + "\n"


def _help(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a command's help; those that click leaves as they are, as code."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b\n"):
            yield f"{paragraph}\n"
        elif paragraph.startswith("\b\nExample:\n"):
            yield f"```bash\n{inspect.cleandoc(paragraph.partition('Example:')[2])}\n```\n"
        else:
            yield f"```text\n{paragraph[2:]}\n```\n"


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else _value(option, context)
    meaning = (option.help or "").strip()
    found = re.search(r"\s*\[default: (.*?)\]$", meaning)
    default = found[1] if found else _default(option)
    if found:
        meaning = meaning[: found.start()]
    if option.required:
        default = "required"
    if option.multiple:
        meaning = f"{meaning} Several times for several.".strip() if "everal" not in meaning else meaning
    if option.show_envvar and option.envvar:
        variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar
        meaning = f"{meaning} Or {', '.join(f'`{variable}`' for variable in variables)}.".strip()
    cells = (names, f"`{value}`" if value else "", default, meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _value(option: click.Option, context: click.Context) -> str:
    """Return what an option takes: its metavar, of a range with its ends."""
    kind = option.type
    if option.metavar or not isinstance(kind, click.IntRange | click.FloatRange):
        return option.make_metavar(context)
    word = "INTEGER" if isinstance(kind, click.IntRange) else "FLOAT"
    least = "" if kind.min is None else f"{kind.min:g} <{'' if kind.min_open else '='} "
    most = "" if kind.max is None else f" <{'' if kind.max_open else '='} {kind.max:g}"
    return f"{least}{word}{most}"


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.default
    if option.is_flag or default in (None, "") or callable(default) or "UNSET" in repr(default):
        return ""
    several = default if isinstance(default, tuple | list) else (default,)
    return ", ".join(f"`{value}`" for value in several)


if __name__ == "__main__":
    PAGE.write_text(render_page())
