"""What was observed, as values: served models, the state of each server, the queue.

Nothing here measures or decides. Inside the orchestrator time is in seconds, sizes are in items (one image is one
item, a request may bring several), and a width is a whole percentage, never a float that is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

ServerName = NewType("ServerName", str)
Family = NewType("Family", str)
ModelName = NewType("ModelName", str)
"""A model's name in Triton; a model is one width of one family."""
Width = NewType("Width", int)
"""Width ratio in whole percent, 1 to 100."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name in Triton.
        datatype: Triton's name of the type, such as ``FP32``.
        shape: the shape of one item, without the batch dimension; -1 where it may vary.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One width of a family as one server serves it, read from its ModelConfig alone.

    Attributes:
        name: the model's name in Triton.
        family: the family it belongs to.
        width: the width of the family's network.
        accuracy: top-1 on the family's test split, 0..1.
        flops: floating-point operations an item; None when the exporter did not say.
        max_batch_size: the most items in one request.
        instances: how many instances run it on this server.
        sha256: hash of the weights file; equal hashes mean equal answers.
        input: the only input.
        output: the only output, one score a class.
        labels: names of the classes; empty when the exporter did not say.
    """

    name: ModelName
    family: Family
    width: Width
    accuracy: float
    flops: int | None
    max_batch_size: int
    instances: int
    sha256: str | None
    input: TensorSpec
    output: TensorSpec
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchInFlight:
    """A batch that a server has and has not answered.

    Attributes:
        model: the model that runs it.
        items: how many items it holds.
        sent_s: when it was sent, on the router's clock.
        began_s: when an instance of several was free for it; None while it waits for one, and always where a width
            has one instance only, because its batches simply follow each other. It grows with what is known of the
            batch and tells nothing of which batch it is, so it does not count for equality.
    """

    model: ModelName
    items: int
    sent_s: float
    began_s: float | None = field(default=None, compare=False)


def is_within_limits(held: float, held_of_model: float, instances: float, batch_limit: float, waiting: float) -> bool:
    """Return whether a server may be sent one more batch of a model; of numbers alone, because decisions compile it.

    Of one model it may hold a batch for each instance and some more; further ones would only wait there instead of in
    the router, where they can still be given to another server.

    Args:
        held: batches that it holds.
        held_of_model: those of the model in question.
        instances: of that model.
        batch_limit: batches of all models together.
        waiting: batches of one model beyond its instances.
    """
    return held < batch_limit and held_of_model < instances + waiting


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as the router sees it at one moment.

    Attributes:
        name: the server's name.
        models: the models of the family in question, by width, ascending.
        other_models: models of other families, which its load may be of.
        in_flight: batches it has not answered, in the order they were sent.
        bound_items: items already bound to it that wait in the router, with their model.
        batch_limit: the most batches it may hold at a time, of all widths.
        waiting_limit: batches of one width it may hold beyond one for each instance of that width.
        last_answer_s: when it last answered, on the router's clock; None before the first time.
        healthy: False while it does not answer.
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
        items: items that could go together with the head, the head included.
        head_items: items of the head request, which can't be split.
        head_deadline_s: when the head should be answered, on the router's clock.
        tail_deadline_s: when nine of ten in the queue are due, on the router's clock.
        allowed_widths: the widths that the head accepts, ascending.
        min_accuracy: the least accuracy that the head accepts, 0..1.
        priority: the head's priority; 1 is the highest, 0 stands for the default level, as in Triton.
        max_per_item_j: joules that the head may cost an item were it sent alone; None: any.
        preference: what the head prefers; None: what the policy does.
        head_arrived_s: when the head came, on the router's clock; None while that is not told.
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
