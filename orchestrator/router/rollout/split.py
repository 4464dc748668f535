"""Which of two policies decides when, and what requests came to in the time of each.

What is split is time, in slots in which one of both decides everything: a switchback experiment (Bojinov, Simchi-Levi
and Zhao, "Design and analysis of switchback experiments", 2023). Requests, or decisions, drawn one by one would not do.
All share the servers and the queue, so what a policy does wrong is paid by whoever comes next: one that always takes
the widest width would have the better accuracy in its twentieth, and make the other nineteen late. In a slot of many
deadlines it meets its own queue. A request belongs to the slot that it came in. The first quarter of a slot is not
counted, because what came before still works in it.

Slots lie in blocks. In each block one slot, drawn by a hash, is the candidate's, and is held against the others beside
it: so a rate that changes over the day is the same for both. Slots are counted from 1970, so all gateways and workers
that roll out the same file switch at the same time, without a word between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

UNCOUNTED: Final = 0.25
"""Part of a slot, from its beginning, in which what comes is not counted."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who has which slots; times are seconds since 1970.

    Attributes:
        seed: of the draws; the candidate's digest.
        share: of the slots that the candidate has, above 0 and at most 0.5; one in a whole number is taken.
        since_s: the first block begins after that.
    """

    seed: str
    share: float
    slot_s: float
    since_s: float

    @property
    def slots(self) -> int:
        """The number of slots of a block."""
        return round(1 / self.share)

    @property
    def first_block(self) -> int:
        """The number of the first block."""
        return self.slot_at(self.since_s) // self.slots + 1

    def slot_at(self, at_s: float) -> int:
        """Return the number of the slot of a moment."""
        return math.floor(at_s / self.slot_s)

    def own_slot(self, block: int) -> int:
        """Return the candidate's slot of a block."""
        drawn = int.from_bytes(blake2b(f"{self.seed}/{block}".encode(), digest_size=8).digest())
        return block * self.slots + drawn % self.slots

    def is_candidates(self, slot: int) -> bool:
        """Return whether the candidate decides in a slot."""
        block = slot // self.slots
        return block >= self.first_block and slot == self.own_slot(block)

    def is_counted(self, at_s: float) -> bool:
        """Return whether a request is counted that comes then."""
        return at_s / self.slot_s % 1 >= UNCOUNTED and self.slot_at(at_s) // self.slots >= self.first_block


class Ledger:
    """What came of the requests of each slot; what is not answered in time is worth 0."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._slots: dict[int, list[float]] = {}  # requests, and what they were worth

    def note_arrival(self, at_s: float) -> None:
        """Count a request that came then."""
        if self.split.is_counted(at_s):
            self._slots.setdefault(self.split.slot_at(at_s), [0, 0.0])[0] += 1

    def note_worth(self, at_s: float, worth: float) -> None:
        """Add what a request was worth that came then; one that comes after its block was taken is too late."""
        if self.split.is_counted(at_s) and (found := self._slots.get(self.split.slot_at(at_s))) is not None:
            found[1] += worth

    def take_ended(self, now_s: float) -> list[tuple[float, int]]:
        """Remove the blocks that ended a slot ago, so that all is answered that may be in time.

        Returns, for each in which both policies had requests, by how much the candidate's were worth more on average,
        and how many it had.
        """
        ended, found = (self.split.slot_at(now_s) - 1) // self.split.slots, []
        for block in sorted({slot // self.split.slots for slot in self._slots}):
            if block >= ended:
                break
            first, own = block * self.split.slots, self.split.own_slot(block)
            slots = {slot: self._slots.pop(slot, [0, 0.0]) for slot in range(first, first + self.split.slots)}
            requests, worth = slots.pop(own)
            other_requests, other_worth = map(sum, zip(*slots.values(), strict=True))
            if requests and other_requests:
                found.append((worth / requests - other_worth / other_requests, int(requests)))
        return found
