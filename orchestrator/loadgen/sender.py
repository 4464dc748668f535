"""One sender, in a process of its own: ``python -m orchestrator.loadgen.sender FOLDER``.

It reads its plan in the folder, connects, prints ``ready``, reads from its input when to begin (seconds of the
monotonic clock, which all processes of a machine share), sends each request when it is due whether or not earlier ones
have been answered, and writes its records. An interrupt ends the sending, and so does the end of its input, by which it
knows that whoever started it is gone, however that came; what was sent is recorded.

It has to be cheap, because it runs beside what it measures: requests are serialised beforehand, and answers are read
when all is over.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.errors import SlimError
from orchestrator.loadgen.clients import Asked, Client, Parameters, open_client, status_of_failure
from orchestrator.loadgen.judge import Judge, make_judge
from orchestrator.loadgen.plan import Times
from orchestrator.loadgen.records import OK, UNANSWERED, Records, save_records
from orchestrator.loadgen.sample import Sample

PLAN, ARRIVALS, SAMPLE, LABELS, RECORDS = "plan.json", "arrivals.npy", "sample.npz", "labels.npy", "records.npz"
READY = "ready"
_SHORT_S: Final = 1e-3
"""So late a request may be sent without being told a shorter deadline; timers are not finer."""
_AT_ONCE: Final = 32
"""Requests that are sent before answers are looked at."""


@dataclass(frozen=True, slots=True)
class SenderPlan:
    """What one sender is told, beside its arrivals and its sample.

    Attributes:
        kind: Of client, see orchestrator.loadgen.clients.
        address: Where requests go.
        asked: What is asked for.
        deadline_s: From when a request is due.
        tells_deadline: Whether requests carry it, which a plain Triton has no use for.
        wait_s: How long answers are waited for after the last request is due.
        seed: Of the order of the items.
        metric: How answers are judged, see orchestrator.loadgen.judge; None: not at all.
        output: The output that the metric is about; None: the only one, of top-1 the first.
        parameters: Of each request, beside its deadline.
    """

    kind: str
    address: str
    asked: Asked
    deadline_s: float
    tells_deadline: bool
    wait_s: float
    seed: int
    metric: str | None = None
    output: str | None = None
    parameters: Parameters = field(default_factory=dict)

    def left_ms(self, late_s: float) -> int | None:
        """Return the deadline to tell of a request that is sent so long after it was due."""
        if not self.tells_deadline:
            return None
        return max(1, math.floor((self.deadline_s - (late_s if late_s > _SHORT_S else 0.0)) * 1e3))


def write_plan(folder: Path, plan: SenderPlan, due_s: Times, sample: Sample) -> None:
    """Put all that a sender reads into its folder."""
    (folder / PLAN).write_text(json.dumps(asdict(plan)))
    np.save(folder / ARRIVALS, due_s)
    np.savez(folder / SAMPLE, *sample.inputs)
    if sample.labels is not None:
        np.save(folder / LABELS, sample.labels)


class _Outcomes:
    """What came back, as it came."""

    def __init__(self, count: int) -> None:
        self.sent_s = np.full(count, math.nan)
        self.ended_s = np.full(count, math.nan)
        self.answers: list[Any] = [None] * count
        self.failures: dict[int, tuple[str, str]] = {}
        self.sent = 0
        self._open = 0
        self._has_ended = asyncio.Event()

    def begin(self, now_s: float) -> int:
        """Count one request more that was sent; return its number."""
        self.sent_s[self.sent] = now_s
        self.sent += 1
        self._open += 1
        return self.sent - 1

    def note(self, number: int, began_s: float, client: Client, answer: asyncio.Future[Any]) -> None:
        """Keep how a request ended, and when that came."""
        ended: Any = None
        if answer.cancelled():
            self.failures[number] = "CANCELLED", "the call was cancelled"
        elif (ended := answer.exception()) is not None:
            self.failures[number] = status_of_failure(ended)
        else:
            self.answers[number] = ended = answer.result()
        received_s = client.received_s(ended)
        self.ended_s[number] = min(time.monotonic(), math.inf if received_s is None else received_s) - began_s
        self._open -= 1
        self._has_ended.set()

    async def wait_for_all(self) -> None:
        """Return when every request that was sent has ended."""
        while self._open:
            self._has_ended.clear()
            await self._has_ended.wait()


async def send_all(
    client: Client, plan: SenderPlan, due_s: Times, order: Sequence[int], *, began_s: float, stop: asyncio.Event
) -> _Outcomes:
    """Send every request at its time, and wait for the answers, no longer than the plan says or until ``stop``."""
    outcomes, count = _Outcomes(len(due_s)), len(due_s)
    while outcomes.sent < count and not stop.is_set():
        now_s = time.monotonic() - began_s
        at_once = 0
        while outcomes.sent < count and due_s[outcomes.sent] <= now_s and at_once < _AT_ONCE:
            number = outcomes.begin(now_s)
            answer = client.begin(order[number], plan.left_ms(now_s - due_s[number]))
            answer.add_done_callback(partial(outcomes.note, number, began_s, client))
            at_once += 1
        if outcomes.sent < count:
            await asyncio.sleep(max(0.0, due_s[outcomes.sent] - (time.monotonic() - began_s)))
    ends = [asyncio.ensure_future(outcomes.wait_for_all()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(ends, timeout=plan.wait_s, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    return outcomes


def read_outcomes(
    client: Client, due_s: Times, outcomes: _Outcomes, judge: Judge | None, order: Sequence[int]
) -> Records:
    """Return the records of what was sent."""
    count = outcomes.sent
    status, server = np.full(count, UNANSWERED, dtype="U24"), np.full(count, "", dtype="U64")
    decision, policy = np.full(count, "", dtype="U32"), np.full(count, "", dtype="U128")
    width, quality = np.zeros(count, np.int64), np.full(count, math.nan if judge is None else 0.0)
    energy_j = np.full(count, math.nan)
    details: dict[str, str] = {}
    for number in range(count):
        if (failure := outcomes.failures.get(number)) is not None:
            name, text = failure
            status[number] = name
            details[name] = text
        elif (answer := outcomes.answers[number]) is not None:
            reply = client.read(answer)
            status[number], width[number], server[number] = OK, reply.width, reply.server
            decision[number], policy[number], energy_j[number] = reply.decision, reply.policy, reply.energy_j
            if judge is not None:
                quality[number] = judge(reply.outputs, order[number])
    sent_s, ended_s = outcomes.sent_s[:count], outcomes.ended_s[:count]
    decided = decision, policy
    return Records(due_s[:count], sent_s, ended_s, status, width, server, *decided, quality, energy_j, details)


async def _run(folder: Path) -> None:
    written = json.loads((folder / PLAN).read_text())
    plan = SenderPlan(**{**written, "asked": Asked(*written["asked"])})
    due_s = np.load(folder / ARRIVALS)
    with np.load(folder / SAMPLE) as sample:
        inputs = [sample[f"arr_{index}"] for index in range(len(plan.asked.inputs))]
    judge = None if plan.metric is None else make_judge(plan.metric, np.load(folder / LABELS), plan.output)
    order = np.random.default_rng(plan.seed).permutation(np.arange(len(due_s)) % len(inputs[0])).tolist()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await open_client(plan.kind, plan.address, plan.asked, inputs, plan.parameters)
    print(READY, flush=True)
    if not (said := await asyncio.to_thread(sys.stdin.readline)):
        return
    began_s = float(said)
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)  # there is only its end to read
    before_s = time.process_time()
    outcomes = await send_all(client, plan, due_s, order, began_s=began_s, stop=stop)
    cpu_s = time.process_time() - before_s
    save_records(replace(read_outcomes(client, due_s, outcomes, judge, order), cpu_s=cpu_s), folder / RECORDS)
    await client.close()


def _main(arguments: Sequence[str]) -> None:
    try:
        asyncio.run(_run(Path(arguments[0])))
    except SlimError as exc:
        sys.exit(" ".join(str(exc).split()))


if __name__ == "__main__":
    _main(sys.argv[1:])
