"""A request on its way through the router, and the answer that its caller gets."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError, SlimError
from orchestrator.router.queue.trace import Trace
from orchestrator.snapshot import Family, Preference, ServedModel, ServerName, Width
from orchestrator.triton.families import Interface, interface_of
from orchestrator.triton.infer_wire import NUMPY_TYPES, Tensors

Array = NDArray[Any]
Items = Array | Mapping[str, Array]
"""What a caller gives: the array of the only input, or all inputs by name."""
NO_ITEMS: Tensors = ()
"""In place of a batch that is needed no more."""

_BYTES_OVERHEAD = 8
"""What each element of a BYTES tensor takes beside its bytes, in an array that refers to it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs for one request and what was decided for it.

    Attributes:
        outputs: By name, in the order of the model's; without a batch dimension for a single item, else items first.
        labels: The labels of the classes; empty when nobody said.
        width: The width that ran it, in percent.
        batch: The number of items in the batch that it ran in, its own included.
        queue_s: Seconds from the call to the sending of the batch.
        latency_s: Seconds from the call to the answer.
        deadline_met: Whether the answer came in time.
        expected_accuracy: The top-1 accuracy of that width on the family's test split, 0..1.
        decision_id: The decision's name in logs, unique within this router.
        energy_j: The expected joules of its part of the batch, above what the server draws anyway; None when unknown.
    """

    outputs: Mapping[str, Array]
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

    @property
    def output(self) -> Array:
        """The first output: of a classifier the scores, [classes] for a single item and [n, classes] for n."""
        return next(iter(self.outputs.values()))


class ResponseSink(Protocol):
    """The part of a future that the router uses to answer a request."""

    def done(self) -> bool:
        """Return whether the outcome is there, or nobody wants to know any more."""

    def set_result(self, answer: Answer, /) -> None:
        """Take the answer; only before it is done."""

    def set_exception(self, error: Exception, /) -> None:
        """Take why there is no answer; only before it is done."""


class CallbackSink:
    """A sink that calls back once, with the answer or with the error, and at once.

    A future wakes whoever waits for it in the next turn of the event loop, and waiting takes a task. A gateway needs
    neither: it turns an answer into bytes and writes them.

    Args:
        callback: What is called with either; it must not raise.

    Attributes:
        on_done: What is called, before ``callback``, once the outcome is there or the caller gave up; set by the
            router.
    """

    __slots__ = ("_callback", "_is_done", "on_done")

    def __init__(self, callback: Callable[[Answer | Exception], None]) -> None:
        self._callback = callback
        self._is_done = False
        self.on_done: Callable[[], None] = lambda: None

    def done(self) -> bool:
        """Return whether it has been called back, or the caller has given up."""
        return self._is_done

    def set_result(self, answer: Answer) -> None:
        """Call back with the answer; only before it is done."""
        self.cancel()
        self._callback(answer)

    def set_exception(self, error: Exception) -> None:
        """Call back with why there is no answer; only before it is done."""
        self.cancel()
        self._callback(error)

    def cancel(self) -> None:
        """Never call back, because the caller has given up."""
        if not self._is_done:
            self._is_done = True
            self.on_done()


class WaitingPlace(Protocol):
    """Where a request waits, as the request knows it: a request queue."""

    @property
    def key(self) -> BatchKey:
        """What all requests that wait there have in common."""

    def drop(self, request: PendingRequest, /) -> None:
        """Count a request no more, because it waits here no longer."""


@dataclass(slots=True)
class Suspicion:
    """A model of a server has failed at a batch: it is blamed once others have answered all ``requests`` of it."""

    server: ServerName
    model: ServedModel
    requests: int
    blame: Callable[[], None]

    def note_answer(self, server: ServerName, model: ServedModel) -> None:
        """Note who has answered one of the requests; the model itself shows that it was no more than an accident."""
        if (server, model.name) != (self.server, self.model.name):
            self.requests -= 1
            if self.requests == 0:
                self.blame()


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What requests have in common that may go in one batch.

    Attributes:
        item_shapes: The shapes of an item, one for each input; items of different shapes can't share a tensor.
        widths: The widths that all of them accept, ascending.
        min_accuracy: The least accuracy that they ask for, 0..1.
        max_per_item_j: What an item may cost in joules; None: anything.
        preference: What they prefer; None: what the policy does.
        bound_to: Server and width that early binding chose; None before binding and always with late binding.
        avoid: Servers on which an attempt failed or is overdue; others are taken while there are any.
        alone: A number of its own, above 0, for a request that goes alone; 0: with others.
        interface: What models take and give by which the requests were read: a family's may be replaced by others while
            they wait; None: it is not known.
    """

    family: Family
    item_shapes: tuple[tuple[int, ...], ...]
    widths: tuple[Width, ...]
    min_accuracy: float = 0.0
    max_per_item_j: float | None = None
    preference: Preference | None = None
    bound_to: tuple[ServerName, Width] | None = None
    avoid: frozenset[ServerName] = frozenset()
    alone: int = 0
    interface: Interface | None = field(default=None, hash=False, repr=False)  # what differs in it is rare

    def allows(self, model: ServedModel) -> bool:
        """Return whether a model of the family is one of those that may answer."""
        return model.width in self.widths and model.accuracy >= self.min_accuracy and self.suits(model)

    def suits(self, model: ServedModel) -> bool:
        """Return whether a model of the family takes and gives what the requests were read for."""
        return self.interface is None or interface_of(model) == self.interface

    def elsewhere(self, server: ServerName) -> BatchKey:
        """Return the key of the queue in which requests wait for another server than ``server``."""
        return replace(self, bound_to=None, avoid=self.avoid | {server})


class Transit(NamedTuple):
    """What of a request's time passes outside the router.

    Attributes:
        arrived_s: When it came, on the event loop's clock; before now where it had to wait to be read.
        return_s: How long its answer is expected to take until it has left.
        trace: What its way is noted in; None: it is not traced.
    """

    arrived_s: float
    return_s: float = 0.0
    trace: Trace | None = None


@dataclass(slots=True)
class PendingRequest:
    """A request whose caller waits.

    Times are seconds on the event loop's clock.

    Attributes:
        batch: The inputs; the first dimension of each counts the items.
        size_bytes: Of all inputs.
        is_single: Whether the caller gave one item without a batch dimension.
        sink: Takes the answer or the error; None once the caller needs neither.
        priority: The priority level; 1 is the highest.
        has_own_deadline: Whether its caller named the deadline; the router's own is no reason to give a request up.
        attempts: How often it was sent.
        sent_to: Where it was sent last; None before.
        suspicion: Of the model that failed last at a batch with it; None: none has.
        under_way: How many attempts have not ended.
        overdue: How many of these take far longer than was expected, so that little is hoped for.
        given_s: The deadline as its caller gave it, from when it came; infinite when it is not known.
        transit_s: What of that passes outside the router: before it was read, and on the way back.
        policy: The policy that decided on it last; empty before.
        record: That decision's record for the log, when it was bound early and is sampled.
        due_s: When its time is looked at next; infinite while nobody watches it.
        held_at: After how many changes of whatever else there is it was last held, as the head of its queue; -1: never.
        queue: The queue that it waits in; None while it waits nowhere.
        family: The family that it asks; None where there is only one.
        trace: What its way is noted in; None: it is not traced.
    """

    batch: Tensors
    is_single: bool
    arrived_s: float
    deadline_s: float
    sink: ResponseSink | None = field(repr=False)
    items: int = field(init=False)
    size_bytes: int = field(init=False)
    priority: int = 1
    has_own_deadline: bool = False
    attempts: int = 0
    sent_to: tuple[ServerName, Width] | None = None
    suspicion: Suspicion | None = field(default=None, repr=False)
    under_way: int = 0
    overdue: int = 0
    given_s: float = math.inf
    transit_s: float = 0.0
    policy: str = ""
    record: dict[str, Any] | None = field(default=None, repr=False)
    due_s: float = math.inf
    held_at: int = -1
    queue: WaitingPlace | None = field(default=None, repr=False)
    family: Family | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        self.items = len(self.batch[0])
        self.size_bytes = sum(map(_size_bytes, self.batch))

    @property
    def is_queued(self) -> bool:
        """Whether it waits in a queue."""
        return self.queue is not None

    def withdraw(self) -> None:
        """Wait no more; does nothing when it does not wait."""
        if self.queue is not None:
            self.queue.drop(self)

    def give_up(self, error: SlimError) -> bool:
        """Wait no more; fail unless an attempt under way may still answer it; return whether it failed."""
        self.withdraw()
        if self.under_way:
            return False
        self.batch = NO_ITEMS  # heaps may keep the request for a while
        self.fail(error)
        return True

    @property
    def is_over(self) -> bool:
        """Whether it was answered or failed, or its caller has given up."""
        return self.sink is None or self.sink.done()

    def answer(self, answer: Answer) -> None:
        """Give its caller the answer, unless it is over."""
        if self.sink is not None and not self.sink.done():
            self.sink.set_result(answer)

    def fail(self, error: SlimError) -> None:
        """Give its caller the error, unless it is over."""
        if self.sink is not None and not self.sink.done():
            self.sink.set_exception(error)


def _size_bytes(array: Array) -> int:
    """Return what an input takes; raises ConfigError unless texts can be sent: later they would fail a whole batch."""
    if array.dtype.kind != "O":
        return array.nbytes
    size_bytes = array.size * _BYTES_OVERHEAD
    for element in array.flat:
        if type(element) is not bytes:
            _require_text(element)
        size_bytes += len(element)
    return size_bytes


def _require_text(element: object) -> None:
    if not isinstance(element, str | bytes):
        raise ConfigError(f"an input of text holds {reprlib.repr(element)}; give str or bytes")
    try:
        _ = element.encode() if isinstance(element, str) else element
    except UnicodeEncodeError as exc:  # half of a pair, as in what is no text of a file's name
        raise ConfigError(f"an input of text holds {reprlib.repr(element)}, which is no UTF-8; give bytes") from exc


def as_tensors(items: Items, names: Sequence[str]) -> Tensors:
    """Return what a caller gave in the order of a model's inputs; raises ConfigError when others are given."""
    if isinstance(items, Mapping):
        if items.keys() != set(names):
            raise ConfigError(f"the inputs are {', '.join(names)}; got {', '.join(map(str, items)) or 'none'}")
        return tuple(items[name] for name in names)
    if len(names) != 1:
        raise ConfigError(f"there are {len(names)} inputs, {', '.join(names)}; give a mapping of names to arrays")
    return (items,)


def as_batch(items: Items, model: ServedModel) -> tuple[Tensors, bool]:
    """Return what a caller gave with a batch dimension, and whether it came without one.

    Raises:
        ConfigError: when names, types or shapes are not what the model takes.
    """
    arrays = as_tensors(items, [spec.name for spec in model.inputs])
    are_single = [spec.takes(a.shape) for a, spec in zip(arrays, model.inputs, strict=True)]
    is_single = all(are_single)
    for array, spec, is_item in zip(arrays, model.inputs, are_single, strict=True):
        if array.dtype != np.dtype(NUMPY_TYPES[spec.datatype]):
            raise ConfigError(f"input {spec.name!r} takes {spec.datatype}, got {array.dtype}; convert the array")
        if not is_item and not (array.ndim and len(array) > 0 and spec.takes(array.shape[1:])):
            shape = ", ".join(map(str, spec.shape))
            raise ConfigError(f"input {spec.name!r} takes [{shape}] or [n, {shape}], got {list(array.shape)}")
    for array, spec, is_item in zip(arrays, model.inputs, are_single, strict=True):
        if is_item and not is_single:
            raise ConfigError(f"input {spec.name!r} is one item, and others are batches; give all or none as batches")
        if not is_single and len(array) != len(arrays[0]):
            raise ConfigError(
                f"input {spec.name!r} has {len(array)} items, {model.inputs[0].name!r} has {len(arrays[0])}; "
                "give as many of each"
            )
    return (tuple(array[np.newaxis] for array in arrays) if is_single else arrays), is_single
