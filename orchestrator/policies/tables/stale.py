"""What is known of a server that has been silent for too long.

A router knows at once what it sends, so its account of a server is never late about its own load: all that was sent
since the last answer is counted, and the batch that runs is aged by the time it has run. What gets old is the belief
in the server's speed. It rests on answers, and a server that has become slow, is busy for someone else or hangs is
silent just when there would be news. But silence is news as well: a batch that was expected to take E and still runs
after e > E takes at least e, so the server is now at least e/E times slower than believed.

This is the correction for one's own dispatches that stale load information asks for (Mitzenmacher, TPDS 11(1), 2000;
Dahlin, "Interpreting Stale Load Information", TPDS 11(10), 2000), with the slow-down factor of ALERT (ATC'20) bounded
from below by a measurement that is not over yet.
"""

from __future__ import annotations

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Table, compiled


@compiled
def stretch_overdue(rows: Table, count: int) -> None:
    """Stretch each server's expected times by how overdue it is.

    The factor is e/E of the most overdue batch that the server runs, in which E holds the slack margin already; and
    1, so that nothing changes, while it is in time. It applies to all that is expected of that server, what it
    holds and the new batch alike. What is expected of the whole fleet, to drain the queue, stays.
    """
    for row in range(count):
        ratio = rows[col.ROW_OVERDUE_RATIO][row]
        if ratio > 1:
            rows[col.ROW_SERVICE_S][row] *= ratio
            rows[col.ROW_COMPLETION_S][row] *= ratio
            rows[col.ROW_HEAD_COMPLETION_S][row] *= ratio
            rows[col.ROW_WAIT_S][row] *= ratio
            rows[col.ROW_PER_ITEM_S][row] *= ratio
            rows[col.ROW_FIXED_S][row] *= ratio
            rows[col.ROW_OVERDUE_RATIO][row] = 1.0
