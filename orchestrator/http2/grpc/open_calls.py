"""Calls whose clients have not sent all of them, over all connections of a server.

Windows bound what one of them holds, and nothing how many there are: each connection may have a thousand. So there is a
bound for all, and who has the most gives way: an address, or a tenant where callers say who they are. To count costs
every call, so it is done by one dictionary, and room is made for many at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Protocol, TypeVar


class OpenCall(Hashable, Protocol):
    """A call that waits for its client."""

    @property
    def was_answered(self) -> bool:
        """Whether its client has had something for it, as of a stream of messages."""

    def evict(self) -> None:
        """End it for the sake of others."""


C = TypeVar("C", bound=OpenCall)


class OpenCalls:
    """The calls that wait for their clients, ``most`` at a time; an eighth of it is made room for at once.

    Attributes:
        owners: Whose each of them is, in the order they came.
    """

    def __init__(self, most: int) -> None:
        self.owners: dict[OpenCall, Hashable] = {}
        self._most = most

    def add(self, call: OpenCall, owner: Hashable) -> None:
        """Count a call; afterwards it, or others, may have been evicted."""
        self.owners[call] = owner
        if len(self.owners) > self._most:
            for lost in choose_evicted_calls(self.owners, 1 + self._most // 8):
                self.owners.pop(lost, None)
                lost.evict()

    def discard(self, call: OpenCall) -> None:
        """Count it no more, if it was: it has come whole, or ended."""
        self.owners.pop(call, None)


def choose_evicted_calls(owners: Mapping[C, Hashable], count: int) -> list[C]:
    """Return at least so many calls to evict, of those who have the most until all of them have as many.

    Of one owner's calls those that were never answered go first, and then the oldest.
    """
    by_owner: defaultdict[Hashable, list[C]] = defaultdict(list)
    for call, owner in owners.items():
        by_owner[owner].append(call)
    kept = _level(map(len, by_owner.values()), len(owners) - count)
    return [
        call for calls in by_owner.values() for call in sorted(calls, key=_was_answered)[: max(0, len(calls) - kept)]
    ]


def _was_answered(call: OpenCall) -> bool:
    return call.was_answered


def _level(counts: Iterable[int], room: int) -> int:
    """Return how many each may keep, so that all of them together keep no more than there is room for."""
    left = sorted(counts)
    for index, count in enumerate(left):
        share = room // (len(left) - index)
        if count > share:
            return share
        room -= count
    return max(left, default=0)
