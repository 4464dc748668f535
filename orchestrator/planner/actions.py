"""What a plan consists of: actions, each with a reason and the numbers behind it, refusals and notices.

Actions have prices that differ by an order of magnitude. An instance count is changed in place while the model
serves; everything else in a config is a full reload, which holds old and new in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.planner.host import Batching
from orchestrator.snapshot import ModelName


class ActionKind(StrEnum):
    """What is done to a model; each kind has a price of its own."""

    LOAD = "load"
    SCALE_UP = "scale-up"
    """The number of instances grows, in place."""
    SCALE_DOWN = "scale-down"
    """The number of instances falls, in place."""
    RELOAD = "reload"
    """A full reload: other batching, or a repair."""
    UNLOAD = "unload"


class ActionReason(StrEnum):
    """Why an action is planned."""

    MINIMUM_SET = "minimum-set"
    """The model belongs to the family's minimum resident set."""
    DEMANDED = "demanded"
    """Someone asked for the model."""
    WANTED = "wanted"
    """There is room for a width that the settings want."""
    QUEUEING = "queueing"
    """Requests wait; of all models this one's next instance relieves most per byte."""
    IDLE = "idle"
    """Its instances, or the model itself, have had too little to do for long enough."""
    MAKE_ROOM = "make-room"
    """The model was idle and one with a queue needs its memory."""
    OVER_BUDGET = "over-budget"
    """Memory has grown beyond the budget by itself."""
    BATCHING_GAIN = "batching-gain"
    """Another batching saves more instance time than the reload costs."""
    BATCHING_TOO_LONG = "batching-too-long"
    """Batches with the model's delay no longer keep the deadline budget."""
    BATCHING_HARMFUL = "batching-harmful"
    """Since its delay, less has been answered than before."""
    BATCHING_NEEDLESS = "batching-needless"
    """The delay no longer saves anything, and costs latency."""
    MAX_INSTANCES = "max-instances"
    """The model runs with more instances than it may."""
    DEAD_INSTANCE = "dead-instance"
    """A stub died; only a full reload brings it back."""
    FAILING = "failing"
    """So large a part of the model's answers are errors that an instance of it must be broken."""
    DRIFTED = "drifted"
    """The model runs with something else than its files say."""


class RefusalReason(StrEnum):
    """Why something that would be done is not."""

    MEMORY_BUDGET = "memory-budget"
    MEMORY_UNKNOWN = "memory-unknown"
    UTILISATION = "utilisation"
    MAX_INSTANCES = "max-instances"
    QUARANTINED = "quarantined"
    PRICE = "price"
    """The room for it, made by an unload and paid back with a load, costs more than it saves."""
    WEIGHTS_DIFFER = "weights-differ"
    """Its weights are not those that config.pbtxt names, and whatever is done to it but an unload may load them."""


class NoticeKind(StrEnum):
    """What an operator should know."""

    STUCK = "stuck"
    """A model has been loading for too long; only a restart of Triton helps."""
    RESTART_ADVISED = "restart-advised"
    """Unloads have not given back so much memory, or repairs so many threads, that Triton should be drained and
    restarted."""
    OVER_BUDGET = "over-budget"
    """Memory is over the budget and nothing can be taken away."""
    RIVAL = "rival"
    """Somebody else undoes what this controller does, so it changes nothing for a while."""
    WEIGHTS_DIFFER = "weights-differ"
    """A model's weights are not those that config.pbtxt names; what was loaded before goes on."""


Numbers = tuple[tuple[str, float], ...]
"""Named numbers behind a decision, units in the names, in the order they should be read."""


@dataclass(frozen=True, slots=True)
class Action:
    """One change of one model.

    Attributes:
        instances: The instances afterwards; 0 for an unload.
        batching: The batching afterwards.
        batching_before: The batching that it ran with when the plan was made.
        is_forced: Whether it is a reload in spite of an equal config, by a new nonce.
        needed_bytes: The memory that it may add at its peak, margin included; 0 when it adds none.
    """

    kind: ActionKind
    model: ModelName
    reason: ActionReason
    instances: int
    batching: Batching = field(default_factory=Batching)
    batching_before: Batching = field(default_factory=Batching)
    is_forced: bool = False
    needed_bytes: int = 0
    numbers: Numbers = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something the plan would do and may not.

    Attributes:
        numbers: The numbers behind it, such as budget_bytes, used_bytes and needed_bytes.
        detail: What numbers can't say, such as Triton's reason for a failed load; often empty.
    """

    kind: ActionKind
    model: ModelName
    reason: RefusalReason
    numbers: Numbers = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something an operator should know of a model, or with None of the whole host.

    Attributes:
        detail: What numbers can't say; often empty.
    """

    kind: NoticeKind
    model: ModelName | None
    numbers: Numbers = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: actions in the order in which they are to be done, at most one a model.

    Attributes:
        refusals: What would have been done and may not, ordered by model.
        desired_instances: The instances that each model of the repository should have, whether it may have them now or
            was refused; ordered by model.
    """

    actions: tuple[Action, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notices: tuple[Notice, ...] = ()
    desired_instances: tuple[tuple[ModelName, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action.

    Attributes:
        began_s: When it began, seconds on the controller's clock.
        ended_s: When it ended, seconds on the controller's clock.
        error: The reason why it failed; None when it did not.
        memory_before_bytes: The memory in use before; None: unreadable, or other actions overlapped.
        memory_after_bytes: The memory in use once it had settled; None as above.
        instances_before: The instances that the model ran with when it began; 0 when it was not loaded.
        is_executed: False when Triton certainly never saw it, so that it says nothing of the config.
        is_late: Whether it took longer than its step waited.
    """

    action: Action
    began_s: float
    ended_s: float
    error: str | None = None
    memory_before_bytes: int | None = None
    memory_after_bytes: int | None = None
    instances_before: int = 0
    is_executed: bool = True
    is_late: bool = False
