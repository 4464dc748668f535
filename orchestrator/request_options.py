"""What one request asks for besides its array, as one value from the wire to the queue."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.snapshot import Preference, Width


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The constraints and preferences of one request; what is None is left to the router.

    Attributes:
        deadline_ms: Milliseconds from the arrival until the answer is due.
        min_accuracy: The least expected accuracy of the width that runs the request, 0..1.
        width: The only width, in percent, that may run the request.
        family: The model family; may be None when the fleet serves only one.
        priority: The priority level; 1 is served first, 0 is the router's default level.
        max_joules: The most joules that an item may cost when the request is sent alone.
        preference: What counts among the decisions that are in time.
    """

    deadline_ms: float | None = None
    min_accuracy: float | None = None
    width: Width | None = None
    family: str | None = None
    priority: int = 0
    max_joules: float | None = None
    preference: Preference | None = None
