"""What was observed, as values: served models, the state of each server, the queue.

Nothing here measures or decides. Inside the orchestrator time is in seconds, sizes are in items (one image is one
item, a request may bring several), and a width is a whole percentage, never a float that is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NewType

ServerName = NewType("ServerName", str)
Family = NewType("Family", str)
ModelName = NewType("ModelName", str)
"""A model's name in Triton; a model is one width of one family."""
Width = NewType("Width", int)
"""Width ratio in whole percent, 1 to 100."""
Fill = float | str | tuple[float | str, ...]
"""Values of an input: one for all elements, one for each, or the word ``random``."""


SHORT_S: Final = 0.016
"""Some sixteen times what answers and requests take to travel on one machine, about a millisecond."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        datatype: Triton's name of the type, such as ``FP32``.
        shape: The shape of one item, without the batch dimension; -1 where it may vary.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether an item may have a shape."""
        return len(shape) == len(self.shape) and all(s in (-1, n) for n, s in zip(shape, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What an image file goes through before a network, as its author did it in training.

    Attributes:
        resize: What the shorter side is scaled to, in pixels; None: the image is scaled to the input's size.
        colours: ``RGB``, ``BGR`` or ``L``.
        layout: ``CHW`` or ``HWC``.
        scale: What a value of 0..255 is multiplied by.
        mean: What is subtracted after that: a value, or one for each channel.
        std: What is divided by in the end, likewise.
    """

    resize: int | None = None
    colours: str = "RGB"
    layout: str = "CHW"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One width of a family as one server serves it, read from its ModelConfig alone.

    Attributes:
        accuracy: The quality on the family's test split: top-1, 0..1, unless whoever made the family measured something
            else; a finite number, the larger the better.
        flops: The floating-point operations of an item; None when the exporter did not say, or found none to count.
        max_batch_size: The most items in one request; 1 where there is no batch dimension.
        instances: The instances that run it on this server.
        sha256: The hash of the weights file; equal hashes mean equal answers.
        inputs: At least one, in the order of the config.
        outputs: At least one, in the order of the config; of a classifier the first has a score a class.
        labels: The names of the classes; empty when nobody said.
        preprocessing: What an image file goes through; None when nobody said, and then it is of the input's size, in
            0..1, RGB or grey by the number of channels, which come first.
        is_batching: Whether its tensors have a batch dimension; where they don't, a request is one item.
        usual_item: The shapes of a usual item's inputs, in their order; empty when nobody said, and then only inputs
            without sides that may vary have one.
        fills: What a usual item has instead of zeros, by input in their order; empty when nobody said.
    """

    name: ModelName
    family: Family
    width: Width
    accuracy: float
    flops: int | None
    max_batch_size: int
    instances: int
    sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    is_batching: bool = True
    preprocessing: Preprocessing | None = None
    usual_item: tuple[tuple[int, ...], ...] = ()
    fills: tuple[Fill | None, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchInFlight:
    """A batch that a server has and has not answered.

    Attributes:
        sent_s: When it was sent, on the router's clock.
        began_s: When an instance of several was free for it; None while it waits for one, and always where a width
            has one instance only, because its batches simply follow each other. It grows with what is known of the
            batch and does not say which batch it is, so it does not count for equality.
    """

    model: ModelName
    items: int
    sent_s: float
    began_s: float | None = field(default=None, compare=False)


def waiting_limit(waiting: float, held: float, work_s: float) -> float:
    """Return how many batches of one model may wait at a server; of numbers alone, because decisions compile it.

    Several may where batches are so short that it would idle while answers and requests travel. Else one: what waits in
    the router can still be shed, narrowed, or given to another server.

    Args:
        waiting: The most that may ever.
        held: The batches that it holds, those that run included.
        work_s: The seconds that all these take.
    """
    return 1.0 if waiting > 1 and held > 1 and work_s > SHORT_S else waiting


def is_within_limits(held: float, held_of_model: float, instances: float, batch_limit: float, waiting: float) -> bool:
    """Return whether a server may be sent one more batch of a model; of numbers alone, because decisions compile it.

    Of one model it may hold a batch for each instance and some more; further ones would only wait there instead of in
    the router, where they can still be given to another server.

    Args:
        held: The batches that it holds.
        held_of_model: Those of the model in question.
        instances: The instances of that model.
        batch_limit: The most batches of all models together.
        waiting: The most batches of one model beyond its instances.
    """
    return held < batch_limit and held_of_model < instances + waiting


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a server's device showed when it was last asked; None: unknown.

    Attributes:
        utilisation_ratio: How busy it is, by whomever, 0..1.
        memory_ratio: The part of its memory that is used, or of what Triton may use, 0..1.
        power_ratio: The power that it draws, over the most that it has been seen to draw, 0..1.
    """

    utilisation_ratio: float | None = None
    memory_ratio: float | None = None
    power_ratio: float | None = None


UNKNOWN_DEVICE: Final = DeviceState()
READ_DEVICES_S: Final = 1.0
"""So often devices are asked for what they show."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as the router sees it at one moment.

    Attributes:
        models: The models of the family in question, by width, ascending.
        other_models: The models of other families, which its load may be of.
        in_flight: The batches that it has not answered, in the order in which they were sent.
        bound_items: The items already bound to it that wait in the router, with their model.
        batch_limit: The most batches that it may hold at a time, of all widths.
        waiting_limit: The batches of one width that it may hold beyond one for each instance of that width.
        last_answer_s: When it last answered, on the router's clock; None before the first time.
        healthy: False while it does not answer.
        device: What its device shows.
    """

    name: ServerName
    models: tuple[ServedModel, ...]
    other_models: tuple[ServedModel, ...] = ()
    in_flight: tuple[BatchInFlight, ...] = ()
    bound_items: tuple[tuple[ModelName, int], ...] = ()
    batch_limit: int = 2
    waiting_limit: int = 1
    last_answer_s: float | None = None
    healthy: bool = True
    device: DeviceState = UNKNOWN_DEVICE


@dataclass(frozen=True, slots=True)
class Preference:
    """What counts for a request that is in time anyhow: three weights, none negative, that add up to 1."""

    accuracy: float
    latency: float
    energy: float


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits for a decision, seen from its head.

    Attributes:
        items: The items that could go together with the head, the head included.
        head_items: The items of the head request, which can't be split.
        head_deadline_s: When the head should be answered, on the router's clock.
        tail_deadline_s: When nine of ten in the queue are due, on the router's clock.
        allowed_widths: The widths that the head accepts, ascending.
        min_accuracy: The least accuracy that the head accepts, 0..1.
        priority: The head's priority; 1 is the highest, 0 stands for the default level, as in Triton.
        max_per_item_j: The joules that the head may cost an item were it sent alone; None: any.
        preference: What the head prefers; None: what the policy does.
        head_arrived_s: When the head came, on the router's clock; None while that is unknown.
        refuses_late: Whether the head is refused once its deadline can't be kept, as one of a caller's own is.
        servers_share: The part of the servers' time that the queue can count on, above 0; 1: no other family uses them.
        arrived_items: The items of the family that have come to wait so far, in all of its queues; for a rate.
        other_queues: The queues that wait too: of other bounds, preferences or families.
        other_items: The items that wait in those.
    """

    items: int
    head_items: int
    head_deadline_s: float
    tail_deadline_s: float
    allowed_widths: tuple[Width, ...]
    min_accuracy: float = 0.0
    priority: int = 0
    max_per_item_j: float | None = None
    preference: Preference | None = None
    head_arrived_s: float | None = None
    refuses_late: bool = False
    servers_share: float = 1.0
    arrived_items: int = 0
    other_queues: int = 0
    other_items: int = 0
