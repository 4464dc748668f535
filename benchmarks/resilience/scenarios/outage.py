"""One Triton of two fails under 200 requests a second and is repaired; the other has a second for each request.

The Tritons are slowed down so far that both together serve the load at full width and one alone can not: the survivor
has the capacity at narrower widths only, which the router has to see by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, quantiles

import numpy as np
import onnxruntime

from benchmarks.harness.command import Say
from benchmarks.harness.programs import last_lines, run_python
from benchmarks.resilience.clients.plan import PLAN, REPLIES, Plan, Replies, Stretch
from benchmarks.resilience.results import Outage
from benchmarks.resilience.scenarios.faults import FAULTS
from benchmarks.resilience.scenarios.testbed import FAMILY, Testbed, open_testbed
from benchmarks.resilience.scenarios.watching import read_metrics
from benchmarks.resilience.time_bins import sum_time_bins
from orchestrator.errors import PermanentError
from orchestrator.loadgen.sample import load_sample

SAMPLE = Path("examples/fashion-mnist/test_1000.npz")
IMAGES = 100
RPS = 200.0
DEADLINE_S = 1.0
SLOWDOWN = 12.0
STRIKES_S = 4.0
LASTS_S = 10.0
LASTS_LONG_S = 16.0
"""For wrong answers: probes come every ten seconds."""
AFTER_S = 12.0
REST_S = 2.0
"""Until the gateway's metrics show the last request."""
SLACK_S = 60.0
EXAMPLES = 5
VICTIM = "b"


async def run_outage(name: str, repository: Path, folder: Path, say: Say) -> Outage:
    """Return the raw numbers of one fault; see the module."""
    fault = FAULTS[name]
    lasts_s = LASTS_LONG_S if name == "wrong-answers" else LASTS_S
    seconds = STRIKES_S + lasts_s + AFTER_S
    async with open_testbed(repository, folder, slowdown=SLOWDOWN) as testbed:
        before = await asyncio.to_thread(read_metrics, testbed.metrics)
        plan = Plan(
            (Stretch(seconds, RPS),),
            items=1,
            parameters={"slim_deadline_ms": round(DEADLINE_S * 1e3)},
            images=str(write_images(repository, folder)),
        )
        async with Sending(testbed, plan) as sending:
            await sending.until(STRIKES_S)
            fault_at_s = sending.now_s
            async with fault.befall(testbed.servers[VICTIM]) as notes:
                say(f"struck at {fault_at_s:.2f} s")
                await sending.until(STRIKES_S + lasts_s)
            mended_at_s = sending.now_s
            say(f"repaired at {mended_at_s:.2f} s")
            replies = await sending.replies()
        await asyncio.sleep(REST_S)
        after = await asyncio.to_thread(read_metrics, testbed.metrics)
    counted = {key: after.get(key, 0.0) - before.get(key, 0.0) for key in after}
    return _sum_up(name, fault.detail + "".join(notes), replies, fault_at_s, mended_at_s, counted)


def _sum_up(
    name: str, detail: str, replies: Replies, fault_at_s: float, mended_at_s: float, counted: dict[str, float]
) -> Outage:
    numbers = range(len(replies.due_s))
    in_time = {n for n in numbers if replies.is_in_time(n, DEADLINE_S)}
    lost = Counter(_fate(replies, n) for n in numbers if n not in in_time)
    wrong = [n for n in numbers if replies.status[n] == "ok" and not replies.is_right[n]]
    by_victim = [replies.known_end_s(n) for n in in_time if replies.server[n] == VICTIM]
    meanwhile = [at_s for at_s in by_victim if fault_at_s < at_s < mended_at_s]
    since = [at_s for at_s in by_victim if at_s > mended_at_s]
    after = [n for n in in_time if replies.due_s[n] >= fault_at_s]
    calm = [n for n in in_time if replies.due_s[n] < fault_at_s]
    texts = [f"{replies.status[n]}: {replies.texts.get(n, '')}" for n in numbers if n not in in_time]
    retries = counted.get("slim_router_retries_total")
    return Outage(
        name=name,
        detail=detail,
        rps=RPS,
        deadline_s=DEADLINE_S,
        fault_at_s=fault_at_s,
        mended_at_s=mended_at_s,
        sent=len(numbers),
        answered=len(in_time),
        lost=dict(lost),
        twice=sum(count > 1 for count in replies.answers),
        wrong=len(wrong),
        last_wrong_s=max((replies.known_end_s(n) - fault_at_s for n in wrong), default=None),
        worst_s=max((replies.latency_s(n) or 0.0 for n in in_time), default=0.0),
        p99_before_s=p99(replies, calm),
        p99_after_s=p99(replies, after),
        accuracy_before=_accuracy(replies, calm),
        accuracy_during=_accuracy(replies, [n for n in after if replies.due_s[n] < mended_at_s]),
        noticed_after_s=max(meanwhile) - fault_at_s if meanwhile else None,
        back_after_s=min(since) - mended_at_s if since else None,
        counted=round(counted["slim_gateway_requests_total"]) - len(numbers),
        retries=None if retries is None else round(retries),
        sender_late_s=replies.sender_late_s,
        examples=(*texts[:EXAMPLES], *([replies.stream_ended] if replies.stream_ended else ())),
        moments=sum_time_bins(replies, DEADLINE_S),
    )


def _fate(replies: Replies, number: int) -> str:
    status = replies.status[number]
    return "never answered" if status is None else "answered late" if status == "ok" else status


def p99(replies: Replies, numbers: Sequence[int]) -> float:
    """Return the 99th percentile of latencies of answered requests; 0 with fewer than two."""
    latencies_s = [latency_s for n in numbers if (latency_s := replies.latency_s(n)) is not None]
    return quantiles(latencies_s, n=100, method="inclusive")[98] if len(latencies_s) > 1 else 0.0


def _accuracy(replies: Replies, numbers: Sequence[int]) -> float:
    return mean(replies.accuracy[n] for n in numbers) if numbers else 0.0


def write_images(repository: Path, folder: Path) -> Path:
    """Write the images that are sent and what each width computes of them, and return the file's path."""
    images = load_sample(SAMPLE).images[:IMAGES]
    scores = {}
    for model in sorted(repository.glob(f"{FAMILY}_w*")):
        session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
        scores[f"w{int(model.name.rpartition('_w')[2])}"] = session.run(None, {"pixels": images})[0]
    path = folder / "images.npz"
    np.savez(path, images=images, **scores)
    return path


class Sending:
    """A client process that sends a plan while the block runs."""

    def __init__(self, testbed: Testbed, plan: Plan) -> None:
        self._testbed = testbed
        self._plan = plan
        self._began_s = 0.0
        self._log = testbed.folder / "sender.log"

    async def __aenter__(self) -> Sending:
        """Start it, and return when its first request is due soon."""
        folder = self._testbed.folder
        (folder / "plan.json").write_bytes(PLAN.dump_json(self._plan))
        self._running = run_python(
            "benchmarks.resilience.clients.sender",
            *(self._testbed.grpc, str(folder / "plan.json"), str(folder / "replies.json")),
            log=self._log,
        )
        self._process = await self._running.__aenter__()
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._running.__aexit__(None, None, None)
            raise PermanentError(f"the client has not begun: {last_lines(self._log)}")
        self._began_s = json.loads(line)["began_s"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End it."""
        await self._running.__aexit__(None, None, None)

    @property
    def now_s(self) -> float:
        """Time since the first request was due."""
        return time.monotonic() - self._began_s

    async def until(self, at_s: float) -> None:
        """Return at a time since the first request was due."""
        await asyncio.sleep(max(0.0, at_s - self.now_s))

    async def replies(self) -> Replies:
        """Return what became of the requests, once all are over."""
        seconds = sum(stretch.seconds for stretch in self._plan.stretches)
        async with asyncio.timeout(seconds + SLACK_S - self.now_s):
            status = await self._process.wait()
        if status:
            raise PermanentError(f"the client ended with status {status}: {last_lines(self._log)}")
        return REPLIES.validate_json((self._testbed.folder / "replies.json").read_bytes())
