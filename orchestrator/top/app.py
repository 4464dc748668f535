"""The terminal: numbers of now, what needs attention, and a table of each section; keys sort and switch.

Rows are written anew with each event, and the cursor stays on the row that it was on, so that what is being read does
not move away. Nothing is asked of the gateway but its events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import DataTable, Footer, Sparkline, Static, TabbedContent, TabPane

from orchestrator.gateway.page.traffic import Point
from orchestrator.top.events import Document
from orchestrator.top.graphs import CELLS, keep_points
from orchestrator.top.tables import TABLES, Row, cells, figures, headline, say_alerts, say_more, sort_rows

_POINTS = 120
_ALERTS = 3
_DETAIL_LINES = 4
_LOOK_S = 1.0
_SILENT_PERIODS = 3
"""Periods without an event, after which what is shown counts as old; as on the page."""

Watch = Callable[[], AsyncIterator[Document | str]]


class Top(App[None]):
    """Shows what events bring until it is closed.

    Args:
        watch: Returns the events, or in words why there are none.
        clock: Returns seconds that pass evenly.
    """

    TITLE = "Slim Scheduler"
    ENABLE_COMMAND_PALETTE = False
    CSS = f"""
    #head {{ text-style: bold; }}
    #alerts {{ color: $error; max-height: {_ALERTS}; }}
    Sparkline {{ height: 1; }}
    .old #figures, .old #alerts, .old Sparkline, .old #tabs, .old #detail {{ opacity: 60%; }}
    TabbedContent, ContentSwitcher, TabPane, DataTable {{ height: 1fr; padding: 0; }}
    #detail {{ height: {_DETAIL_LINES}; border-top: solid $primary; overflow-y: auto; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"show('{name}')", name, show=False) for n, name in enumerate(TABLES, 1)),
        Binding("s", "sort", "sort"),
        Binding("r", "turn", "reverse"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, watch: Watch, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._watch = watch
        self._clock = clock
        self._heard_s: float | None = None  # when an event came; None: it was told why none does
        self._period_s = 0.0
        self._document: Document | None = None
        self._as_of = ""
        self._points: list[Point] = []
        self._sorting: dict[str, tuple[int | None, bool]] = dict.fromkeys(TABLES, (None, True))
        self._more = dict.fromkeys(TABLES, "")
        self._shown: dict[str, list[Row]] = {name: [] for name in TABLES}

    def compose(self) -> ComposeResult:
        """Lay it out, from top to bottom."""
        yield Static("connecting", id="head")
        yield Static(id="figures")
        yield Sparkline([], summary_function=max)
        yield Static(id="alerts")
        with TabbedContent(id="tabs"):
            for number, name in enumerate(TABLES, 1):
                with TabPane(f"{number} {name}", id=name):
                    yield DataTable[Text](id=f"{name}-table", cursor_type="row", zebra_stripes=True)
        yield Static(id="detail")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to watch."""
        for name, table in TABLES.items():
            self._table(name).add_columns(*(column.title for column in table.columns))
        self._follow()
        self.set_interval(_LOOK_S, self._tell_silence)
        self._table("servers").focus()

    @work(exclusive=True)
    async def _follow(self) -> None:
        async for event in self._watch():
            if isinstance(event, str):
                self._heard_s = None
                self._miss(event)
            else:
                try:
                    self._take(event)
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                    self._heard_s = None
                    self._miss("what answers is no gateway of this version")

    def _tell_silence(self) -> None:
        """Say for how long there was no event: a gateway that hangs, or whose machine is gone, does not end them."""
        silent_s = 0.0 if self._heard_s is None else self._clock() - self._heard_s
        if self._heard_s is not None and silent_s >= _SILENT_PERIODS * self._period_s:
            self._miss(f"no news for {silent_s // 5 * 5:.0f} s")

    def _miss(self, why: str) -> None:
        """Say why there is nothing new, and of when what stays below is."""
        self._put("head", f"{why} · below as of {self._as_of}" if self._as_of else why)
        self.screen.set_class(bool(self._as_of), "old")

    def _take(self, event: Document) -> None:
        self._points = keep_points(self._points, event["points"])
        self._heard_s, self._period_s = self._clock(), float(event["points"]["period_s"])
        self.query_one(Sparkline).data = [point.answered_per_s for point in self._points[-_POINTS:]]
        if "traffic" not in event:
            self._miss("the gateway starts, or ends")
            return
        points = {"keys": Point._fields, "rows": self._points, "period_s": event["points"]["period_s"]}
        event = event | {"points": points, "graph_cells": self.size.width - 80 + CELLS}
        self._put("head", headline(event))
        self.screen.remove_class("old")
        self._put("figures", figures(event))
        self._put("alerts", say_alerts(event, _ALERTS))
        for name in TABLES:
            self._fill(name, event)
        self._as_of = time.strftime("%H:%M:%S", time.localtime(event["unix_s"]))
        self._document = event

    def _fill(self, name: str, document: Document) -> None:
        table, widget, (by, descending) = TABLES[name], self._table(name), self._sorting[name]
        old, at = self._shown[name], widget.cursor_row
        key = table.key(old[at]) if 0 <= at < len(old) else None
        rows = sort_rows(table, document, by, descending=descending)
        said = [cells(table, row) for row in rows]  # before anything is changed, because another version's may fail
        self._more[name] = say_more(document, name)
        self._shown[name] = rows
        widget.clear()
        for line in said:
            widget.add_row(*map(Text, line))
        widget.move_cursor(row=next((n for n, row in enumerate(rows) if table.key(row) == key), 0))
        if name == self._tab:
            self._tell(name)

    def _tell(self, name: str) -> None:
        rows, at = self._shown[name], self._table(name).cursor_row
        self._put("detail", TABLES[name].detail(rows[at]) if 0 <= at < len(rows) else "nothing to show")
        self.query_one("#detail").border_title = self._more[name]

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Tell all of the row that the cursor is on."""
        if event.data_table.id == f"{self._tab}-table":
            self._tell(self._tab)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose head was clicked, the other way round when it was clicked before."""
        by, descending = self._sorting[self._tab]
        index = event.column_index
        self._sort(index, not descending if by == index else TABLES[self._tab].columns[index].descends)

    def on_tabbed_content_tab_activated(self) -> None:
        """Let keys go to the table that is shown."""
        self._table(self._tab).focus()
        self._tell(self._tab)

    def action_show(self, name: str) -> None:
        """Show a table."""
        self.query_one(TabbedContent).active = name

    def action_sort(self) -> None:
        """Sort by the next column; after the last one as the gateway does."""
        by, _ = self._sorting[self._tab]
        following, columns = 0 if by is None else by + 1, TABLES[self._tab].columns
        if following < len(columns):
            self._sort(following, columns[following].descends)
        else:
            self._sort(None, True)

    def action_turn(self) -> None:
        """Sort the other way round."""
        by, descending = self._sorting[self._tab]
        self._sort(by, not descending)

    def _sort(self, by: int | None, descending: bool) -> None:
        name = self._tab
        self._sorting[name] = by, descending
        widget = self._table(name)
        for index, (column, definition) in enumerate(zip(widget.ordered_columns, TABLES[name].columns, strict=True)):
            arrow = ("▼" if descending else "▲") if index == by else ""
            column.label = Text(definition.title + arrow)
        if self._document is not None:
            self._fill(name, self._document)

    @property
    def _tab(self) -> str:
        return self.query_one(TabbedContent).active or next(iter(TABLES))

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#{name}-table", DataTable)

    def _put(self, name: str, text: str) -> None:
        self.query_one(f"#{name}", Static).update(Content(text))
