"""Five times what the fleet can answer: is accuracy given up before answers, and does nobody wait in vain?

What the fleet can answer is measured just before, at full and at the narrowest width, by loops that keep it busy. Then
stretches of load: calm; *pressed*, more than full width can answer and less than the narrowest can; the *burst*, five
times what the narrowest can; calm again; a second burst, which shows whether the first one's memory was given back or
comes on top; and calm at last. Requests bring several images each, so that one client process can
send as much, and the Tritons play machines slow enough for that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.harness.command import Say
from benchmarks.harness.processes import read_cpu, read_held
from benchmarks.harness.programs import run_python
from benchmarks.resilience.clients.plan import Plan, Replies, Stretch
from benchmarks.resilience.results import Burst, Phase
from benchmarks.resilience.scenarios.outage import Sending, write_images
from benchmarks.resilience.scenarios.testbed import Testbed, open_testbed
from benchmarks.resilience.time_bins import OVERDUE, REFUSED, sum_time_bins
from orchestrator.errors import PermanentError

SLOWDOWN = 16.0
"""Of both Tritons; no more, because a time in which the host stands still counts as many times over."""
ITEMS = 8
DEADLINE_S = 1.0
TIMES = 5.0
WIDEST, NARROWEST = 100, 25
CALM_RATIO = 0.4
"""Of what full width can answer."""
PRESSED_RATIO = 0.8
"""Of what the narrowest width can answer."""
CALM_S, PRESSED_S, BURST_S, AGAIN_S = 4.0, 6.0, 6.0, 8.0
BURSTS = ("burst", "second burst")
CAPACITY_LOOPS = 48
CAPACITY_S = 4.0
SAMPLE_S = 0.1
REST_S = 3.0
EXAMPLES = 5


async def run_burst(repository: Path, folder: Path, say: Say) -> Burst:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder, slowdown=SLOWDOWN) as testbed:
        wide_rps = await measure_capacity(testbed, WIDEST)
        narrow_rps = await measure_capacity(testbed, NARROWEST)
        say(f"the fleet answers {wide_rps:.0f}/s at full width, {narrow_rps:.0f}/s at the narrowest")
        calm_rps, burst_rps = CALM_RATIO * wide_rps, TIMES * narrow_rps
        load = {
            "calm": Stretch(CALM_S, calm_rps),
            "pressed": Stretch(PRESSED_S, PRESSED_RATIO * narrow_rps),
            "burst": Stretch(BURST_S, burst_rps),
            "calm again": Stretch(AGAIN_S, calm_rps),
            "second burst": Stretch(BURST_S, burst_rps),
            "calm at last": Stretch(AGAIN_S, calm_rps),
        }
        parameters = {"slim_deadline_ms": round(DEADLINE_S * 1e3)}
        plan = Plan(tuple(load.values()), ITEMS, parameters, str(write_images(repository, folder)))
        await asyncio.sleep(REST_S)
        at_rest_bytes = read_held(testbed.gateway_pid).anonymous_bytes
        async with Sending(testbed, plan) as sending:
            held: list[tuple[float, int, float]] = []
            sampling = asyncio.create_task(_sample(testbed, sending, held))
            try:
                replies = await sending.replies()
            finally:
                sampling.cancel()
        await asyncio.sleep(REST_S)
        after_bytes = read_held(testbed.gateway_pid).anonymous_bytes
    return _sum_up(load, replies, (wide_rps, narrow_rps), held, at_rest_bytes, after_bytes)


def _sum_up(
    load: Mapping[str, Stretch],
    replies: Replies,
    capacity_rps: tuple[float, float],
    held: Sequence[tuple[float, int, float]],
    at_rest_bytes: int,
    after_bytes: int,
) -> Burst:
    phases, from_s = [], 0.0
    for name, stretch in load.items():
        phases.append(_phase(name, replies, from_s, from_s + stretch.seconds, stretch.rps))
        from_s += stretch.seconds
    numbers = range(len(replies.due_s))
    pressed_s = phases[1].from_s
    narrowed_s = [replies.known_end_s(n) for n in numbers if 0 < replies.width[n] < WIDEST]
    refused_s = [replies.known_end_s(n) for n in numbers if replies.status[n] == REFUSED]
    failed = [n for n in numbers if replies.status[n] not in ("ok", REFUSED, OVERDUE)]
    return Burst(
        items=ITEMS,
        deadline_s=DEADLINE_S,
        wide_rps=capacity_rps[0],
        narrow_rps=capacity_rps[1],
        phases=tuple(phases),
        narrowed_at_s=min((at_s for at_s in narrowed_s if at_s > pressed_s), default=None),
        refused_at_s=min(refused_s, default=None),
        rss_bytes=(at_rest_bytes, *_peaks(phases, held), after_bytes),
        gateway_cpu_ratio=_cpu_ratio(phases, held),
        sender_late_s=replies.sender_late_s,
        examples=tuple(f"{replies.status[n]}: {replies.texts.get(n, '')}" for n in failed[:EXAMPLES]),
        moments=sum_time_bins(replies, DEADLINE_S),
    )


def _phase(name: str, replies: Replies, from_s: float, until_s: float, rps: float) -> Phase:
    numbers = replies.between(from_s, until_s)
    answered = [n for n in numbers if replies.status[n] == "ok"]
    refused = [n for n in numbers if replies.status[n] == REFUSED]
    overdue = [n for n in numbers if replies.status[n] == OVERDUE]
    in_time = sum(replies.is_in_time(n, DEADLINE_S) for n in answered)
    narrowest = sum(replies.width[n] == NARROWEST for n in answered)
    return Phase(
        name=name,
        from_s=from_s,
        until_s=until_s,
        rps=rps,
        sent=len(numbers),
        in_time=in_time,
        late=len(answered) - in_time,
        overdue=len(overdue),
        refused=len(refused),
        failed=len(numbers) - len(answered) - len(refused) - len(overdue),
        narrowest_ratio=narrowest / len(answered) if answered else None,
        accuracy=mean(replies.accuracy[n] for n in answered) if answered else None,
        worst_answer_s=max((replies.latency_s(n) or 0.0 for n in answered), default=0.0),
        worst_refusal_s=max((replies.latency_s(n) or 0.0 for n in (*refused, *overdue)), default=None),
        twice=sum(replies.answers[n] > 1 for n in numbers),
    )


async def measure_capacity(testbed: Testbed, width: int) -> float:
    """Return how many requests a second the fleet answers at one width when it always has more to do."""
    arguments = (testbed.grpc, str(width), str(ITEMS), str(CAPACITY_LOOPS), str(CAPACITY_S))
    async with run_python(
        "benchmarks.resilience.clients.capacity", *arguments, log=testbed.folder / "capacity.log"
    ) as process:
        output, _ = await process.communicate()
    if process.returncode:
        raise PermanentError(f"the loops at width {width} ended with status {process.returncode}")
    return float(json.loads(output)["answers_per_s"])


async def _sample(testbed: Testbed, sending: Sending, held: list[tuple[float, int, float]]) -> None:
    """Note time, memory and processor time of the gateway."""
    roots = {"gateway": testbed.gateway_pid}
    while True:
        cpu_s = (await asyncio.to_thread(read_cpu, roots)).cpu_s["gateway"]
        held.append((sending.now_s, read_held(testbed.gateway_pid).anonymous_bytes, cpu_s))
        await asyncio.sleep(SAMPLE_S)


def _peaks(phases: Sequence[Phase], held: Sequence[tuple[float, int, float]]) -> tuple[int, int]:
    """Return the most that was held until the second burst, and from then on."""
    second_s = next(phase.from_s for phase in phases if phase.name == BURSTS[1])
    return (
        max(used for at_s, used, _ in held if at_s < second_s),
        max(used for at_s, used, _ in held if at_s >= second_s),
    )


def _cpu_ratio(phases: Sequence[Phase], held: Sequence[tuple[float, int, float]]) -> float:
    used_s = passed_s = 0.0
    for phase in phases:
        if phase.name in BURSTS:
            within = [(at_s, cpu_s) for at_s, _, cpu_s in held if phase.from_s <= at_s < phase.until_s]
            used_s += within[-1][1] - within[0][1]
            passed_s += within[-1][0] - within[0][0]
    return used_s / passed_s
