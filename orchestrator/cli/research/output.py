"""How research commands show how far they are, and print tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

_MIN_COLUMNS = 110
"""Tables are laid out for at least so many: one that breaks its cells is harder to read than one that wraps."""


def wide_console(min_columns: int = _MIN_COLUMNS) -> Console:
    """Return a console on which tables of many columns are not squeezed."""
    return Console(width=max(min_columns, Console().width))


def figures_table(title: str, figures: Iterable[str], *, names: Iterable[Column | str] = ()) -> Table:
    """Return an empty table: columns of names on the left, columns of figures behind them."""
    table = Table(*names, title=title)
    for heading in figures:
        table.add_column(heading, justify="right")
    return table


@contextmanager
def counted_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr; yields a function that takes how many are done, and of how many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


@contextmanager
def told_how_to_go_on(place: Path, option: str = "", *, is_kept: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Say, where the block is interrupted, from where the same command goes on, and with which option.

    Before anything ``is_kept`` there it begins anew, and nothing is said.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not is_kept():
            raise KeyboardInterrupt("nothing was kept yet") from None
        how = " ".join(filter(None, ("the same command", option and f"with {option}")))
        raise KeyboardInterrupt(f"{how} goes on from {place}") from None
