"""A request on its way through the router, and the answer that its caller gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError, SlimError
from orchestrator.snapshot import Family, Preference, ServerName, TensorSpec, Width

if TYPE_CHECKING:
    from orchestrator.router.queue.response_sink import Told

Array = NDArray[Any]
NO_ITEMS: Array = np.empty((0,))
"""In place of a batch that is needed no more."""

_NUMPY_TYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}


class QueueOfRequests(Protocol):
    """What a waiting request knows of its queue, orchestrator.router.queue.request_queue.RequestQueue."""

    def drop(self, request: PendingRequest, /) -> None:
        """Count a request no more that has stopped waiting."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The output for one request and what was decided for it.

    Attributes:
        output: scores of the classes, [classes] for a single item and [n, classes] for a batch of n.
        labels: of the classes; empty when the exporter did not say.
        server: that ran it.
        width: it ran at.
        batch: items in the group it ran with, its own included.
        queue_s: from the call to the sending of the group.
        latency_s: from the call to the answer.
        deadline_met: whether the answer came in time.
        expected_accuracy: top-1 of that width on the family's test split, 0..1.
        decision_id: unique within this router; names the decision in logs.
        policy: that decided.
        energy_j: expected of its part of the group, above what the server draws anyway; None when unknown.
    """

    output: Array
    labels: tuple[str, ...]
    server: ServerName
    width: Width
    batch: int
    queue_s: float
    latency_s: float
    deadline_met: bool
    expected_accuracy: float
    decision_id: str
    policy: str
    energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What requests have in common that may go in one batch.

    Attributes:
        family: they ask for.
        item_shape: of one item.
        widths: they all accept, ascending.
        min_accuracy: they all ask for, 0..1.
        max_per_item_j: they all may cost, in joules an item; None: any.
        preference: of all of them; None: the policy's own.
        bound_to: server and width that early binding chose; None before binding and always with late binding.
        avoid: servers on which an attempt failed or is overdue; others are taken while there are any.
    """

    family: Family
    item_shape: tuple[int, ...]
    widths: tuple[Width, ...]
    min_accuracy: float = 0.0
    max_per_item_j: float | None = None
    preference: Preference | None = None
    bound_to: tuple[ServerName, Width] | None = None
    avoid: frozenset[ServerName] = frozenset()

    def unbound(self) -> BatchKey:
        """Return the key of the queue in which such requests wait for a decision."""
        return replace(self, bound_to=None)

    def elsewhere(self, server: ServerName) -> BatchKey:
        """Return the key of the queue in which requests wait for another server than ``server``."""
        return replace(self, bound_to=None, avoid=self.avoid | {server})


@dataclass(slots=True)
class PendingRequest:
    """A request whose caller waits.

    Attributes:
        batch: its items, first dimension counts them.
        is_single: whether the caller gave one item without a batch dimension.
        arrived_s: on the router's clock.
        deadline_s: on the router's clock.
        future: resolves to the Answer; cancelled when the caller has given up; None once the caller has been told. A
            future, or what stands for one.
        items: it brings.
        priority: 1 is the highest.
        has_own_deadline: whether its caller named the deadline; the router's own is no reason to give a request up.
        attempts: how often it was sent.
        under_way: attempts that have not ended.
        policy: that decided on it last; empty before.
        record: of that decision for the log, when it was bound early and is sampled.
        due_s: when its time is looked at next; infinite while nobody watches it.
        held_at: after how many changes of whatever else there is it was last held, as the head of its queue; -1: never.
        queue: where it waits; None while it waits nowhere.
    """

    batch: Array
    is_single: bool
    arrived_s: float
    deadline_s: float
    future: Told | None = field(repr=False)
    items: int = field(init=False)
    priority: int = 1
    has_own_deadline: bool = False
    attempts: int = 0
    under_way: int = 0
    policy: str = ""
    record: dict[str, Any] | None = field(default=None, repr=False)
    due_s: float = math.inf
    held_at: int = -1
    queue: QueueOfRequests | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.items = len(self.batch)

    @property
    def is_queued(self) -> bool:
        """Whether it waits in a queue."""
        return self.queue is not None

    def withdraw(self) -> None:
        """Wait no more; does nothing when it does not wait."""
        if self.queue is not None:
            self.queue.drop(self)

    def give_up(self, error: SlimError) -> bool:
        """Wait no more; tell its caller why unless an attempt under way may still answer it; return whether told."""
        self.withdraw()
        if self.under_way:
            return False
        self.batch = NO_ITEMS  # heaps may keep the request for a while
        self.fail(error)
        return True

    @property
    def is_over(self) -> bool:
        """Whether its caller has been told, or waits no longer."""
        return self.future is None or self.future.done()

    def answer(self, answer: Answer) -> None:
        """Tell its caller, when nothing else has been told."""
        if self.future is not None and not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: SlimError) -> None:
        """Tell its caller, when nothing else has been told."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def forget_caller(self) -> None:
        """Let go of what the caller was told; whoever still has the request in a heap must not keep that.

        An error holds the frames it went through, and they the client's whole message.
        """
        self.future = None


def as_batch(array: Array, spec: TensorSpec) -> tuple[Array, bool]:
    """Return ``array`` with a batch dimension, and whether it came without one.

    Raises:
        ConfigError: when its type or shape is not what the model takes.
    """
    wanted = _NUMPY_TYPES.get(spec.datatype)
    if wanted is None:
        raise ConfigError(f"input {spec.name!r} has type {spec.datatype}, which the router does not group")
    if array.dtype != wanted:
        raise ConfigError(f"input {spec.name!r} takes {spec.datatype}, got {array.dtype}; convert the array")
    if _fits(array.shape, spec.shape):
        return array[np.newaxis], True
    if array.ndim == len(spec.shape) + 1 and len(array) > 0 and _fits(array.shape[1:], spec.shape):
        return array, False
    shape = ", ".join(map(str, spec.shape))
    raise ConfigError(f"input {spec.name!r} takes [{shape}] or [n, {shape}], got {list(array.shape)}")


def blank_batch(spec: TensorSpec, items: int) -> Array | None:
    """Return a batch of zeros for a model's input, None when its type or shape leaves open what that is."""
    dtype = _NUMPY_TYPES.get(spec.datatype)
    if dtype is None or any(side < 1 for side in spec.shape):
        return None
    return np.zeros((items, *spec.shape), dtype)


def known_batch(spec: TensorSpec, items: int) -> Array | None:
    """Return the same item ``items`` times, always the same one; None as ``blank_batch``.

    Its values are spread over 0..1 without order, so that every weight has its part in the answer; an item of zeros
    would not tell one first layer from another.
    """
    blank = blank_batch(spec, items)
    if blank is not None:
        values = np.random.default_rng(0).random(spec.shape)
        blank[:] = values * 255 if blank.dtype == np.uint8 else values
    return blank


def _fits(shape: tuple[int, ...], spec_shape: tuple[int, ...]) -> bool:
    return len(shape) == len(spec_shape) and all(s in (-1, n) for n, s in zip(shape, spec_shape, strict=True))
