"""The router's queues, live and simulated: the same requests are sent in the same batches, and the same are refused.

So it is with several families, which take turns, hold each other up for a part of their time, and fill one queue. A
live router on fakes in virtual time and the simulator get the same arrivals, items, priorities and deadlines. Time is
counted in nanoseconds: in microseconds too many choices would be equally good, and rounding would decide.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from orchestrator.config import RouterSettings
from orchestrator.errors import CapacityError, DeadlineError
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preference import parse_preference
from orchestrator.profile.fit import LatencyTable
from orchestrator.router import Router
from orchestrator.router.observer import RouterObserver
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.scenario.workload_settings import ClassSettings
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, served_model
from tests.fakes.virtual_time import new_virtual_loop
from tests.simulation.worlds import scenario

RESOLUTION_S = 1e-9
REFUSED = "refused"
LATE = "late"
ONE: Mapping[str, float] = {"fashion": 1.0}
CALM_AND_FLOOD: Mapping[str, float] = {"calm": 0.2, "flood": 0.8}
THREE: Mapping[str, float] = {"a": 0.1, "b": 0.3, "c": 0.6}
"""Families and their parts of the requests."""
WEIGHTS = {"flood": 0.5}
BOUNDED = {"queue_limit": 40}
ROOMY = {"queue_limit": 10_000}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        ended: REFUSED, LATE (it was sent, and not answered by its deadline), or the server that answered in time.
        at_s: when it was refused or sent; NaN: it was sent and nobody was told when.
        width: it ran at; None unless it was answered in time.
        batch: items it ran with; likewise.
    """

    ended: str
    at_s: float = field(compare=False)
    width: int | None = None
    batch: int | None = None


def fakes(families: Iterable[str]) -> dict[str, FakeServer]:
    """Return servers that are unlike each other, so that no two choices are equally good."""
    servers = {
        "a": FakeServer((), per_item_s=0.004204136, fixed_s=0.017113417),
        "b": FakeServer((), per_item_s=0.006788292, fixed_s=0.023251709),
    }
    for server, most in zip(servers.values(), (4, 8), strict=True):
        served = [served_model(w, family=family, max_batch_size=most) for family in families for w in (50, 100)]
        server.models = tuple(served)
    return servers


def draw(
    seed: int,
    *,
    requests: int,
    gap_s: float,
    limits: dict[str, int],
    shed_late: bool,
    families: Mapping[str, float] = ONE,
    classes: Sequence[Mapping[str, Any]] = (),
) -> tuple[ScenarioSettings, Trace]:
    """Return a scenario, and a trace of it with requests of all kinds."""
    rng = np.random.default_rng(seed)
    several = {name: {"weight": WEIGHTS.get(name, 1.0)} for name in families} if len(families) > 1 else {}
    settings = scenario(
        requests=requests,
        objectives={"in_flight_groups": 1, "shed_late": shed_late, **limits},
        telemetry={"learns": True},
        families=several,
        workload={"classes": classes},
    )
    arrived_s = np.cumsum(rng.exponential(gap_s, requests)).round(9)
    allowed_s = rng.uniform(0.05, 0.6, requests).round(9)
    drawn = draw_trace(settings, simulated_fleet(fakes(families), LatencyTable()), 0)
    return settings, replace(
        drawn,
        arrived_s=arrived_s,
        deadline_s=arrived_s + allowed_s,
        priority=rng.integers(1, 4, requests).astype(float),
        items=rng.integers(1, 4, requests).astype(float),
        family=rng.choice(len(families), requests, p=list(families.values())).astype(float),
    )


def simulated_fleet(servers: dict[str, FakeServer], known: LatencyTable) -> list[SimulatedServer]:
    """Return what fakes are in a simulation; their router begins with what a live one knows."""
    fleet = []
    for name, fake in servers.items():
        models = tuple(
            SimulatedModel(
                m.width,
                m.accuracy,
                tuple(fake.service_s(m.width, n) for n in range(1, m.max_batch_size + 1)),
                start=known.fits[ServerName(name), m.name] if known.fits else SimulatedModel(m.width, 0, (1.0,)).start,
                family=m.family,
            )
            for m in fake.models
        )
        fleet.append(SimulatedServer(ServerName(name), models))
    return fleet


class LiveRun:
    """What a live router does with a trace."""

    def __init__(self, settings: ScenarioSettings, trace: Trace, policy: str, families: Iterable[str] = ONE) -> None:
        self._trace, self._families = trace, sorted(families)
        self._classes = settings.workload.classes
        objectives = settings.objectives
        self._settings = RouterSettings(
            policy=policy,
            guard=NO_TIME_LIMITS,
            in_flight_groups=objectives.in_flight_groups,
            queue_limit=objectives.queue_limit,
            overload={"shed_late": objectives.shed_late},  # type: ignore[arg-type]
            discovery_period_s=1e6,
            retries={"overdue_floor_ms": 1e6},  # type: ignore[arg-type]
            probes=None,
            family_weights=WEIGHTS,
        )
        self.known = LatencyTable()
        self.outcomes: list[Outcome] = []

    async def run(self) -> None:
        """Fill ``known``, with what the router knows before the first request, and ``outcomes``."""
        named = {ServerName(name): server for name, server in fakes(self._families).items()}
        async with Router(self._settings, named, observer=RouterObserver()) as router:
            await asyncio.sleep(1)
            self.known = router.inspect().latency
            began_s = asyncio.get_running_loop().time()
            calls = [asyncio.create_task(self._call(router, at, began_s)) for at in range(len(self._trace.arrived_s))]
            self.outcomes = await asyncio.gather(*calls)

    async def _call(self, router: Router, at: int, began_s: float) -> Outcome:
        loop, trace = asyncio.get_running_loop(), self._trace
        await asyncio.sleep(began_s + float(trace.arrived_s[at]) - loop.time())
        array = np.zeros((int(trace.items[at]), *served_model(100).inputs[0].shape), np.float32)
        asked_s = loop.time()
        deadline_ms = float(trace.deadline_s[at] - trace.arrived_s[at]) * 1e3
        try:
            family, priority = self._families[int(trace.family[at])], int(trace.priority[at])
            asked = self._classes[int(trace.of_class[at])] if self._classes else ClassSettings()
            answer = await router.infer(
                array,
                family=family,
                deadline_ms=deadline_ms,
                priority=priority,
                min_accuracy=asked.min_accuracy or None,
                preference=None if asked.preference is None else parse_preference(asked.preference),
            )
        except CapacityError:
            return Outcome(REFUSED, loop.time() - began_s)
        except DeadlineError:
            return Outcome(LATE, math.nan)
        sent_s = asked_s + answer.queue_s - began_s
        return Outcome(answer.server, sent_s, int(answer.width), answer.batch)


def simulate(
    settings: ScenarioSettings, trace: Trace, policy: str, known: LatencyTable, families: Iterable[str] = ONE
) -> list[Outcome]:
    """Return what the simulator does with a trace."""
    simulation = Simulation(settings, simulated_fleet(fakes(families), known), parse_policy(policy), trace=trace)
    simulation.run()
    requests, names, outcomes = simulation.world.requests, [s.name for s in simulation.servers], list[Outcome]()
    for at in range(len(trace.arrived_s)):
        status, ended_s = requests[sim.STATUS][at], requests[sim.ANSWERED_S][at]
        if status in (sim.SHED, sim.REJECTED):
            outcomes.append(Outcome(REFUSED, ended_s))
        elif settings.objectives.shed_late and ended_s > trace.deadline_s[at]:
            outcomes.append(Outcome(LATE, math.nan))
        else:
            assert status == sim.ANSWERED
            server, sent_s = names[int(requests[sim.SERVER][at])], requests[sim.SENT_S][at]
            outcomes.append(Outcome(server, sent_s, int(requests[sim.WIDTH][at]), int(requests[sim.BATCH][at])))
    return outcomes


CLASSES: Sequence[Mapping[str, Any]] = (
    {"share": 2},
    {"min_accuracy": 0.92},
    {"preference": "energy"},
    {"preference": "accuracy=0.5,latency=0.5", "min_accuracy": 0.9},
    {"share": 0.5},  # in the queue of the first one
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["lert:slack", "lert:brownout", "thrift", "slackfit"])
@pytest.mark.parametrize(("gap_s", "shed_late"), [(0.02, True), (0.006, True), (0.008, False)])
def test_requests_of_unlike_floors_and_preferences_are_sent_and_refused_alike_live_and_simulated(
    gap_s: float, shed_late: bool, policy: str, seed: int
) -> None:
    settings, trace = draw(seed, requests=300, gap_s=gap_s, limits=ROOMY, shed_late=shed_late, classes=CLASSES)
    assert set(compare_both(settings, trace, policy, ONE)) >= {"a", "b"}


CROWDS = [(0.02, ROOMY, True), (0.006, BOUNDED, True), (0.002, ROOMY, True), (0.008, BOUNDED, False)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("policy", ["lert:slack", "slackfit", "sed:slack"])
@pytest.mark.parametrize("families", [ONE, CALM_AND_FLOOD], ids=["one family", "two"])
@pytest.mark.parametrize(("gap_s", "limits", "shed_late"), CROWDS, ids=["busy", "full and late", "flooded", "full"])
def test_a_live_router_and_the_simulator_send_the_same_and_refuse_the_same(
    gap_s: float,
    limits: dict[str, int],
    shed_late: bool,
    families: Mapping[str, float],
    policy: str,
    seed: int,
) -> None:
    settings, trace = draw(seed, requests=300, gap_s=gap_s, limits=limits, shed_late=shed_late, families=families)
    ended = compare_both(settings, trace, policy, families)
    assert len({*ended} - {REFUSED, LATE}) == 2, "both servers are used"
    assert limits is ROOMY or REFUSED in ended


def compare_both(settings: ScenarioSettings, trace: Trace, policy: str, families: Mapping[str, float]) -> list[str]:
    """Compare what a live router and the simulator do with a trace; return how the requests ended."""
    live = LiveRun(settings, trace, policy, families)
    loop = new_virtual_loop(resolution_s=RESOLUTION_S)
    try:
        loop.run_until_complete(live.run())
    finally:
        loop.close()
    simulated = simulate(settings, trace, policy, live.known, families)
    assert live.outcomes == simulated
    assert [o.at_s for o in live.outcomes] == pytest.approx(
        [o.at_s for o in simulated], abs=5 * RESOLUTION_S, nan_ok=True
    )
    return [outcome.ended for outcome in simulated]


@pytest.mark.parametrize(
    ("families", "policy", "seed", "gap_s", "queue_limit"),
    [(THREE, "slackfit", 32, 0.003, 25), (CALM_AND_FLOOD, "sed:slack", 577, 0.003, 10_000)],
    ids=["who is refused changes nothing", "what is bound is sent as soon as it may be"],
)
def test_a_family_that_had_to_wait_for_others_goes_on_at_the_same_time_live_and_simulated(
    families: Mapping[str, float], policy: str, seed: int, gap_s: float, queue_limit: int
) -> None:
    limits = {"queue_limit": queue_limit, "in_flight_groups": 2}
    is_roomy = queue_limit > 25
    settings, trace = draw(seed, requests=150, gap_s=gap_s, limits=limits, shed_late=is_roomy, families=families)
    assert set(compare_both(settings, trace, policy, families)) > {"a", "b"}
