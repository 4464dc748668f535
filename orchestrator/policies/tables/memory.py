"""What a policy remembers between decisions: state in, state out, in the form of a table.

Most policies remember nothing; one that takes turns by weight, follows a rate or learns how slow its fleet is does.
What it remembers is not in the policy, which stays a value, but in a ``Memory`` that whoever decides keeps: a router
puts it into each Situation, a simulated world has one of its own, and so two of them never mix. A decision reads and
writes it, ``observe`` writes it when a batch has been answered, and both get the time.

The table is float64 [MEMORY_FIELDS, at least SLOTS]. Row WHOLE has a slot for each number that belongs to the whole
fleet; the other rows have a place for each server, at server · stride, or for each model, at server · stride + column.
A fixed size of few floats is what a compiled event loop can carry, and all that these policies need. Which slots and
rows are used, and for what, is said where the policy is; they start at 0.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Table, compiled, new_table
from orchestrator.snapshot import ServerName, Width

WHOLE: Final = 0
OF_SERVER: Final = 1
"""Row that holds a number of each server, at the server's own place."""
OF_SERVER_TOO: Final = 2
OF_MODEL: Final = 3
OF_MODEL_TOO: Final = 4
RATIOS: Final = 5
"""The first of RATIO_COUNT rows with the last service times of a model, relative to what was expected."""
RATIO_COUNT: Final = 10
OF_LEARNED_MODEL: Final = RATIOS + RATIO_COUNT
"""Row that holds a number of each model that is a learned policy's; those before it are its base's."""
MEMORY_FIELDS: Final = OF_LEARNED_MODEL + 1

STRIDE: Final = 0
"""Slot of row WHOLE that says how many places a server has."""
OF_LEARNED: Final = 18
"""The first slot of row WHOLE that is a learned policy's; those before it are its base's, whichever that is."""
SLOTS: Final = 32
"""The least number of places of row WHOLE."""


@compiled
def server_place(memory: Table, row: int, rows: Table) -> int:
    """Return where the memory holds what belongs to the server of a row."""
    return int(rows[col.ROW_SERVER][row] * memory[WHOLE][STRIDE])


@compiled
def model_place(memory: Table, row: int, rows: Table) -> int:
    """Return where the memory holds what belongs to the model of a row."""
    return int(rows[col.ROW_SERVER][row] * memory[WHOLE][STRIDE] + rows[col.ROW_COLUMN][row])


def new_memory(servers: int, columns: int) -> Table:
    """Return the table of a policy that has seen nothing yet."""
    table = new_table(MEMORY_FIELDS, max(SLOTS, servers * columns))
    table[WHOLE][STRIDE] = columns
    return table


class Memory:
    """The tables of one router's policies, which find servers and widths again after the fleet has changed.

    Attributes:
        servers, widths: of the tables, by index and by column.
    """

    def __init__(self) -> None:
        self.servers: tuple[ServerName, ...] = ()
        self.widths: tuple[Width, ...] = ()
        self._tables: dict[str, Table] = {}

    def arrange(self, servers: Sequence[ServerName], widths: Sequence[Width]) -> None:
        """Order the tables by these servers and widths; what belongs to others is forgotten."""
        if self.servers == tuple(servers) and self.widths == tuple(widths):
            return
        for policy, table in self._tables.items():
            self._tables[policy] = self._moved(table, servers, widths)
        self.servers, self.widths = tuple(servers), tuple(widths)

    def include(self, servers: Set[ServerName], widths: Set[Width]) -> None:
        """Make room for these as well, in the order of their names and widths."""
        if not (servers <= set(self.servers) and widths <= set(self.widths)):
            self.arrange(sorted({*self.servers, *servers}), sorted({*self.widths, *widths}))

    def table(self, policy: str) -> Table:
        """Return the table of the policy of that name."""
        if policy not in self._tables:
            self._tables[policy] = new_memory(len(self.servers), len(self.widths))
        return self._tables[policy]

    def _moved(self, old: Table, servers: Sequence[ServerName], widths: Sequence[Width]) -> Table:
        new = new_memory(len(servers), len(widths))
        new[WHOLE, STRIDE + 1 : SLOTS] = old[WHOLE, STRIDE + 1 : SLOTS]
        for to_server, name in enumerate(servers):
            if name not in self.servers:
                continue
            was, now = self.servers.index(name) * len(self.widths), to_server * len(widths)
            new[[OF_SERVER, OF_SERVER_TOO], now] = old[[OF_SERVER, OF_SERVER_TOO], was]
            for to_column, width in enumerate(widths):
                if width in self.widths:
                    new[OF_MODEL:, now + to_column] = old[OF_MODEL:, was + self.widths.index(width)]
        return new
