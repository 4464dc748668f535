"""How much a set-up can answer, so that loads can be told as multiples of it."""

from __future__ import annotations

from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import OK, Records
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.loadgen.target import SetUp

_PATIENCE_S = 10.0
"""The deadline, and how long answers are waited for: no request is refused, and none is under way afterwards."""
_OVERLOADED_RATIO = 0.9
_MOST_RPS = 3000.0


async def measure_capacity(
    set_up: SetUp,
    sample: LabelledSample,
    *,
    seconds: float = 4.0,
    first_rps: float = 200.0,
    deadline_s: float = _PATIENCE_S,
) -> float:
    """Return the answers a second of what is sent more than it can answer for a time, with deadlines that don't matter.

    It is sent ``first_rps``, and as long as it keeps up twice as many each time, until ``_MOST_RPS`` is reached. With
    a shorter ``deadline_s`` it is what is answered of requests that are refused when they would be later than that,
    which is less where long queues make larger batches.

    Raises:
        ServerUnavailableError: As ``run_load``.
    """
    rate_rps = first_rps
    while True:
        load = Load("steady", rate_rps, seconds, deadline_s)
        run = await run_load(set_up.target, set_up.of(load), sample.sent(), wait_s=_PATIENCE_S)
        found_rps = answers_rps(run.records, seconds)
        if found_rps < _OVERLOADED_RATIO * rate_rps or rate_rps >= _MOST_RPS:
            return found_rps
        rate_rps *= 2


def answers_rps(records: Records, seconds: float) -> float:
    """Return the answers a second in a run of so many, leaving out its first quarter, in which queues fill."""
    ended_s = records.ended_s[records.status == OK]
    return float(((ended_s > seconds / 4) & (ended_s < seconds)).sum()) / (seconds * 3 / 4)
