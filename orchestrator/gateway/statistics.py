"""Sums of Triton's ModelStatistics over servers and widths that never run backwards.

A server's counters go back to zero with each full reload of a model and vanish with an unload. So for every
(server, model, version) what was counted before is kept, and a reading below the last one is taken for a new start.
What a server counts between the last reading and a reload is lost; the gateway therefore reads every now and then,
whether anybody asks or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.gateway.protocol.messages import Message, pb
from orchestrator.snapshot import ServerName

_Key = tuple[ServerName, str, str]
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_RESPONSE_DURATIONS = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
_BATCH_DURATIONS = ("compute_input", "compute_infer", "compute_output")


class MonotonicStatistics:
    """What all servers have counted since this gateway first read them."""

    def __init__(self) -> None:
        self._before: dict[_Key, Message] = {}  # counted before the last start
        self._last: dict[_Key, Message] = {}

    def observe(self, server: ServerName, statistics: Iterable[Message]) -> None:
        """Take in what a server says of its models."""
        for reading in statistics:
            key = (server, reading.name, reading.version)
            last = self._last.get(key)
            if last is not None and _is_below(reading, last):
                before = self._before.setdefault(key, pb.ModelStatistics())
                add_statistics(before, last)
            self._last[key] = reading

    def total(self, name: str, version: str, wanted: Callable[[str, str], bool]) -> Message:
        """Return the sum over all servers and models for which ``wanted(model, version)``.

        Args:
            name: of the result.
            version: of the result.
            wanted: says which models and versions are summed.
        """
        total = pb.ModelStatistics(name=name, version=version)
        for readings in (self._before, self._last):
            for (_, model, of_version), reading in readings.items():
                if wanted(model, of_version):
                    add_statistics(total, reading)
        total.memory_usage.extend(
            usage
            for (_, model, of_version), reading in self._last.items()
            if wanted(model, of_version)
            for usage in reading.memory_usage
        )
        return total

    def known(self) -> set[tuple[str, str]]:
        """Return all (model, version) that were ever counted."""
        return {(model, version) for _, model, version in self._last}


def add_statistics(total: Message, part: Message) -> None:
    """Add one ModelStatistics to another; the later of their last inferences counts."""
    total.last_inference = max(total.last_inference, part.last_inference)
    total.inference_count += part.inference_count
    total.execution_count += part.execution_count
    _add_durations(total.inference_stats, part.inference_stats, _DURATIONS)
    batches = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in part.batch_stats:
        mine = batches.get(batch.batch_size)
        if mine is None:
            mine = batches[batch.batch_size] = total.batch_stats.add(batch_size=batch.batch_size)
        _add_durations(mine, batch, _BATCH_DURATIONS)
    for name, responses in part.response_stats.items():
        _add_durations(total.response_stats[name], responses, _RESPONSE_DURATIONS)


def _add_durations(total: Any, part: Any, names: Iterable[str]) -> None:
    for name in names:
        mine, theirs = getattr(total, name), getattr(part, name)
        mine.count += theirs.count
        mine.ns += theirs.ns


def _is_below(reading: Message, last: Message) -> bool:
    """Return whether any counter has fallen, which a running model's never does."""
    if reading.inference_count < last.inference_count or reading.execution_count < last.execution_count:
        return True
    return any(
        getattr(reading.inference_stats, name).count < getattr(last.inference_stats, name).count for name in _DURATIONS
    )
