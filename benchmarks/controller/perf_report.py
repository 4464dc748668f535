"""The CSV that ``perf_analyzer -f`` writes, as a ``Latency``."""

from __future__ import annotations

import csv
import io

from benchmarks.controller.results import Latency
from orchestrator.errors import PermanentError

_SERVER = "Inferences/Second"
_QUEUE, _P50, _P99 = "Server Queue", "p50 latency", "p99 latency"


def parse_latency(text: str, *, batch: int) -> Latency:
    """Return the one measurement of a report; its times are microseconds.

    Args:
        text: of the file.
        batch: items in a request; perf_analyzer counts items a second.

    Raises:
        PermanentError: when it holds no measurement, more than one, or lacks a column.
    """
    rows = list(csv.DictReader(io.StringIO(text.strip())))
    if len(rows) != 1:
        raise PermanentError(f"perf_analyzer's report holds {len(rows)} measurements where one was asked for")
    try:
        items_per_s, queue_us, p50_us, p99_us = (float(rows[0][name]) for name in (_SERVER, _QUEUE, _P50, _P99))
    except (KeyError, ValueError, TypeError) as exc:
        raise PermanentError(f"perf_analyzer's report can't be read: {exc!r} in {','.join(rows[0])}") from exc
    return Latency(requests_per_s=items_per_s / batch, queue_s=queue_us / 1e6, p50_s=p50_us / 1e6, p99_s=p99_us / 1e6)
