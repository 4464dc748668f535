"""What a learned policy sees of a decision: the table of its features, by name.

A candidate that is considered is a line of ``FEATURES`` numbers, the rest a line of ``CONTEXT`` numbers. Both are
reached by the names below, always as ``from orchestrator.policies.learned import features as feat``: a feature of a
candidate as ``line[feat.FILL]``, one of the context as ``context[feat.CONTEXT_QUEUE]``. Policy files hold the same
names in lower case, those of the context without the prefix. ``orchestrator.policies.learned.encoding`` computes them.

No feature has a unit: a time appears only as its contrast to another time,

    contrast(a, b) = (a − b)/(a + b) = tanh(½·ln(a/b))

which is a log ratio that can't run away, is 0 for equal times, and costs no logarithm. So what was learned on one
machine means the same on one that is ten times faster. Slack below 0 counts as 0: late is late. Where joules are
unknown, ``joules_known`` says so and the other two are 0; so does ``telemetry_known`` of what a device shows. Nothing
that the live router does not know of a candidate is used, so ``ROW_BACKLOG_S`` is not. Below m is the slack
margin; all numbers lie in 0..1, those in ``SIGNED_FEATURES`` and ``SIGNED_CONTEXT`` in −1..1.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 4
"""The version of both tables, of actions and of what is masked; a policy of another version is refused."""
ROWS: Final = 128
"""Candidates that are considered at the most: all of 32 servers of four widths, two of each of 64."""

HEAD_IN_TIME: Final = 0  # contrast of the head's slack and m · expected completion
HEAD_ALONE_IN_TIME: Final = 1  # likewise, were the head sent alone
TAIL_IN_TIME: Final = 2  # contrast of the tail's slack and m · time until the queue has drained at this width
SERVICE_RATIO: Final = 3  # contrast of the batch's service time and the least of all candidates
COMPLETION_RATIO: Final = 4  # likewise of completion
WAIT_SHARE: Final = 5  # part of the completion that is waiting
DRAIN_RATIO: Final = 6  # contrast of the time to drain and the least of all candidates
FILL: Final = 7  # items of the batch over the most of a batch
QUEUE_SHARE: Final = 8  # items of the batch over all that waits
LAUNCH_SHARE: Final = 9  # part of the service time that does not grow with items
ACCURACY_POSITION: Final = 10  # between the least and the most of all candidates
ACCURACY: Final = 11  # top-1, as a ratio
JOULES_KNOWN: Final = 12  # 1 or 0
JOULES_RATIO: Final = 13  # contrast of joules an item and the least known of all candidates
JOULES_UNFILLED: Final = 14  # contrast of joules an item in this batch and in a full one
HAS_ROOM: Final = 15  # 1 or 0
LOAD: Final = 16  # items that the server has over those and a full batch
OVERDUE: Final = 17  # 1 − 1/overdue ratio
INSTANCES: Final = 18  # 1 − 1/instances
TIMELY: Final = 19  # 1 when head and tail are in time, else 0
BASE_CHOICE: Final = 20  # 1 when the base policy would send this, else 0
IS_IDLE: Final = 21  # 1 when the server has nothing to do, else 0
WIDTH: Final = 22  # ratio, 0.01..1
PRESENT: Final = 23  # 1; 0 in lines that are not used
UTILISATION: Final = 24  # of the server's device of late, 0..1; 0 while unknown
MEMORY: Final = 25  # part of its memory that is used; likewise
POWER: Final = 26  # that it draws, over the most that it has drawn; likewise
TELEMETRY_KNOWN: Final = 27  # part of these three that are known
SLOWED: Final = 28  # contrast of the time of a full batch now and in the long run: above 0 while it is throttled
FEATURES: Final = 29

CONTEXT_QUEUE: Final = 0  # items that wait over those and all batches of the candidates
CONTEXT_HEAD_SLACK: Final = 1  # contrast of the head's slack and m · least service time of all candidates
CONTEXT_TAIL_SLACK: Final = 2  # contrast of the tail's slack and the head's
CONTEXT_HEAD_FILL: Final = 3  # items of the head over the largest batch of the candidates
CONTEXT_MIN_ACCURACY: Final = 4  # the head's floor, as a ratio
CONTEXT_PREFER_ACCURACY: Final = 5  # weight; the policy's own where the head has no preference
CONTEXT_PREFER_LATENCY: Final = 6  # likewise
CONTEXT_PREFER_ENERGY: Final = 7  # likewise
CONTEXT_CANDIDATES: Final = 8  # n/(n + 16) of the candidates that are considered
CONTEXT_WITH_ROOM: Final = 9  # part of them that have room
CONTEXT_IDLE: Final = 10  # part of them whose server is idle
CONTEXT_TIMELY: Final = 11  # part of them that are timely
CONTEXT_SERVICE_SPREAD: Final = 12  # contrast of the most and the least service time
CONTEXT_ACCURACY_SPREAD: Final = 13  # most minus least accuracy
CONTEXT_BASE_HOLDS: Final = 14  # 1 when the base policy sends nothing, else 0
CONTEXT_JOULES_KNOWN: Final = 15  # part of the candidates whose joules are known
CONTEXT_LOAD_WIDEST: Final = 16  # x/(1 + x) of items arriving of late over full batches at each server's slowest width
CONTEXT_LOAD_NARROWEST: Final = 17  # likewise at the quickest width of each
CONTEXT_SURGE: Final = 18  # contrast of what arrived in the last deadline and in the last eight, −¾..¾
CONTEXT_SWING: Final = 19  # x/(1 + x) of the mean square of the first over the second, less 1
CONTEXT_JOINING: Final = 20  # x/(1 + x) of items that will arrive in the head's slack over the largest batch
CONTEXT_BASE_REJECTS: Final = 21  # 1 when the base policy gives the head up, else 0
CONTEXT_CLASSES: Final = 22  # x/(1 + x) of other queues that wait: of other bounds, preferences or families
CONTEXT_OTHERS: Final = 23  # items that wait in those, over all that wait
CONTEXT: Final = 24

BOUNDED_FEATURES: Final = (ACCURACY, UTILISATION, MEMORY, POWER, TELEMETRY_KNOWN, SLOWED)
BOUNDED_CONTEXT: Final = (CONTEXT_ACCURACY_SPREAD, CONTEXT_CLASSES, CONTEXT_OTHERS)
"""Those that are bounded by what training has seen in place of being a reason not to trust what is decided."""
SIGNED_FEATURES: Final = (HEAD_IN_TIME, HEAD_ALONE_IN_TIME, TAIL_IN_TIME, SLOWED)
SIGNED_CONTEXT: Final = (CONTEXT_HEAD_SLACK, CONTEXT_TAIL_SLACK, CONTEXT_SURGE)


def observation_size(lines: int) -> int:
    """Return the numbers of an observation: so many lines of candidates, unused ones 0, then the context."""
    return lines * FEATURES + CONTEXT


def _names(prefix: str, first: str, count: int) -> tuple[str, ...]:
    """Return the names of ``count`` constants from one on, in lower case and without their prefix."""
    names = list(globals())
    at = names.index(prefix + first)
    return tuple(name.removeprefix(prefix).lower() for name in names[at : at + count])


FEATURE_NAMES: Final = _names("", "HEAD_IN_TIME", FEATURES)
CONTEXT_NAMES: Final = _names("CONTEXT_", "QUEUE", CONTEXT)
