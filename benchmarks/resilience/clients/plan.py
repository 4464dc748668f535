"""What a client is to send, and what became of it: two files between a scenario and its client process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Stretch:
    """Constant load.

    Attributes:
        seconds: How long it lasts.
        rps: Requests a second.
    """

    seconds: float
    rps: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent.

    Attributes:
        stretches: Stretches of load, one after another.
        items: Items in a request.
        parameters: Parameters of each request.
        images: The file with the images and their right scores.
        stream_every: Of how many requests one goes over the stream; 0: none does.
    """

    stretches: tuple[Stretch, ...]
    items: int
    parameters: dict[str, int]
    images: str
    stream_every: int = 2

    def due_s(self) -> list[float]:
        """Return when each request is due."""
        due_s, began_s = [], 0.0
        for stretch in self.stretches:
            count = round(stretch.seconds * stretch.rps)
            due_s += [began_s + number / stretch.rps for number in range(count)]
            began_s += stretch.seconds
        return due_s

    def uses_stream(self, number: int) -> bool:
        """Return whether a request goes over the stream."""
        return self.stream_every > 0 and number % self.stream_every == 0


@dataclass(slots=True)
class Replies:
    """What became of each request, by its number.

    Attributes:
        due_s: When it was due.
        sent_s: When it was sent.
        ended_s: When its first answer or error came; None: there was none.
        status: What became of it: ``ok``, gRPC's name, or None for nothing.
        width: The width that ran it; 0: none did.
        server: The server that ran it; empty: none did.
        accuracy: The expected accuracy of that width.
        is_right: Whether the scores are what the width computes.
        answers: How many answers came for it, errors included.
        texts: Messages of errors, by number.
        stream_ended: Why the stream broke; None: it did not.
    """

    due_s: list[float]
    sent_s: list[float]
    ended_s: list[float | None]
    status: list[str | None]
    width: list[int]
    server: list[str]
    accuracy: list[float]
    is_right: list[bool]
    answers: list[int]
    texts: dict[int, str]
    stream_ended: str | None = None

    @classmethod
    def of(cls, plan: Plan) -> Replies:
        """Return those of a plan, before any came."""
        due_s = plan.due_s()
        count = len(due_s)
        return cls(
            due_s=due_s,
            sent_s=[0.0] * count,
            ended_s=[None] * count,
            status=[None] * count,
            width=[0] * count,
            server=[""] * count,
            accuracy=[0.0] * count,
            is_right=[False] * count,
            answers=[0] * count,
            texts={},
        )

    def latency_s(self, number: int) -> float | None:
        """Return the time from when a request was due to its end; None when it never ended."""
        ended_s = self.ended_s[number]
        return None if ended_s is None else ended_s - self.due_s[number]

    def known_end_s(self, number: int) -> float:
        """Return when the first answer or error of a request came, of which it is known that one did."""
        ended_s = self.ended_s[number]
        assert ended_s is not None
        return ended_s

    @property
    def sender_late_s(self) -> float:
        """The most by which a request was sent after it was due."""
        return max(sent_s - due_s for sent_s, due_s in zip(self.sent_s, self.due_s, strict=True))

    def is_in_time(self, number: int, deadline_s: float) -> bool:
        """Return whether a request was answered, rightly formed, within its deadline."""
        latency_s = self.latency_s(number)
        return self.status[number] == "ok" and latency_s is not None and latency_s <= deadline_s

    def between(self, from_s: float, until_s: float) -> Sequence[int]:
        """Return the numbers of the requests that were due in a span of time."""
        return [number for number, due_s in enumerate(self.due_s) if from_s <= due_s < until_s]


PLAN = TypeAdapter(Plan)
REPLIES = TypeAdapter(Replies)
