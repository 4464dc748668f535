"""One run of a scenario: a world, stepped through to its end or from decision to decision."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from typing import Final

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reject
from orchestrator.errors import ConfigError, SlimError, UntrustedError
from orchestrator.policies.circuit_breaker import find_fault
from orchestrator.policies.fleet.row_values import read_candidate
from orchestrator.policies.learned.decide import Scorer, decide_by_scores
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.protocol import Policy, Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled_unlocked, new_column
from orchestrator.policies.tables.layout import HOLD, REJECT
from orchestrator.policies.tables.memory import MEMORY_FIELDS, Memory
from orchestrator.simulation.controllers import begin_control, control, controllers_of
from orchestrator.simulation.initial_world import column_of, known_fleet, make_world, model_name, widths_of
from orchestrator.simulation.scenario.fleet import SimulatedServer, families_of
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.devices import account
from orchestrator.simulation.world.families import family_of, memory_place
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.loop import advance, advance_at, apply
from orchestrator.snapshot import (
    QueueState,
)

DECIDED: Final = 0
"""Place in ``Simulation.learned_counts`` of a learned policy's decisions."""
DISTRUSTED: Final = 1
"""Of those of them in which its base stood in."""


class Simulation:
    """A world and its policy; time moves in ``run`` and ``run_until`` alone.

    A policy that is a rule or learned runs inside the compiled loop. Where a learned one would not trust itself live,
    its base decides, as a guard whose fallback is the base would have it. A trace may be drawn before, so that several
    policies meet the same; else that of the seed is drawn.

    Where the scenario has controllers, they act in between; see orchestrator.simulation.controllers.

    Attributes:
        controllers: of the servers, in their order; empty where there are none.
        families: Names of the families, ascending, as requests count them.
        learned_counts: How many decisions a learned policy made, by DECIDED and DISTRUSTED.
    """

    def __init__(
        self,
        settings: ScenarioSettings,
        servers: Sequence[SimulatedServer],
        policy: Policy,
        *,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
        self.settings, self.servers, self.policy = settings, tuple(sorted(servers, key=lambda s: s.name)), policy
        self.trace = draw_trace(settings, self.servers, seed) if trace is None else trace
        self.learned_counts = new_column(2)
        self.families = tuple(families_of(self.servers))
        self._tables = known_fleet(self.servers, settings, self.trace)
        self._memories = [Memory() for _ in self.families]
        self.world = make_world(self._tables, self.servers, settings, self.trace, policy)
        places = [
            {model_name(m): self._tables.widths.index(column_of(m, self.families)) for m in server.models}
            for server in self.servers
        ]
        self.controllers = controllers_of(settings.controller, self.servers, places)
        begin_control(self.world, self.controllers)

    def run(self) -> None:
        """Run to the end: until every request is answered or given up."""
        self.run_until(math.inf)
        self.settle()

    def run_until(self, until_s: float) -> None:
        """Run up to a time; the policy decides wherever it is asked."""
        while True:
            if isinstance(self.policy, LearnedPolicy):
                self._run_learned(self.policy, until_s)
            else:
                while advance(self.world, until_s):
                    self._decide()
            if not control(self.world, self.controllers):
                return

    def next_decision(self, until_s: float = math.inf) -> int | None:
        """Run to the next decision; return how many rows it has, None when the time is reached first.

        Only for a policy that is no rule, or ``decides_outside`` was called; then ``apply`` makes the decision.
        """
        while not advance(self.world, until_s):
            if not control(self.world, self.controllers):
                return None
        return int(self.world.state[sim.ROW_COUNT])

    def decide_outside(self) -> None:
        """Leave decisions to ``next_decision`` and ``apply``, whatever the policy."""
        self.world.state[sim.IS_EXTERNAL] = 1

    def prefer(self, weights: tuple[float, float, float]) -> None:
        """Let requests that bring none have this preference, weights of accuracy, latency and energy; NaN for none."""
        query = self.world.head.query
        query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = weights

    def apply(self, row: int, items: float, until_s: float = math.inf) -> None:
        """Make the decision that is asked for: a row and its items, or HOLD until a time, or REJECT."""
        apply(self.world, row, float(items), until_s)  # which is not compiled for whole numbers as well

    @property
    def memory(self) -> Table:
        """What the policy remembers of the family that a decision is about."""
        first = memory_place(self.world)
        return self.world.memory[first : first + MEMORY_FIELDS]

    def settle(self) -> None:
        """Bring every server's times and energy up to now."""
        for server in range(len(self.servers)):
            account(self.world, server)

    @property
    def now_s(self) -> float:
        """Virtual time: once a run is over, when its last request was answered or given up."""
        return self.world.state[sim.NOW_S]

    def _run_learned(self, policy: LearnedPolicy, until_s: float) -> None:
        world, counts = self.world, self.learned_counts
        scorer = policy.scorer(world.fleet.server_count * world.fleet.widths)
        if scorer is not None:
            advancing = advance.address or advance.compile_for(world, math.inf)
            _run_scored(world, scorer, float(until_s), counts, advancing)
            return
        while advance(world, until_s):
            asked = self.memory, world.rows, int(world.state[sim.ROW_COUNT]), world.head.query
            counts[DECIDED] += 1
            try:
                row, items, _, hold_until_s = policy.choose_row(*asked)
            except UntrustedError:
                counts[DISTRUSTED] += 1
                row, items, hold_until_s = policy.base_decision
            self.apply(row, items, hold_until_s)

    def _decide(self) -> None:
        world = self.world
        count = int(world.state[sim.ROW_COUNT])
        choose_row = getattr(self.policy, "choose_row", None)
        if choose_row is not None:
            row, items, _, until_s = choose_row(self.memory, world.rows, count, world.head.query)
            self.apply(row, items, until_s)
            return
        candidates = [read_candidate(world.rows, row, self._tables.names) for row in range(count)]
        situation = self._situation()
        decision = self._ask(candidates, situation)
        fault = find_fault(decision, candidates, situation, binding=self.policy.binding, is_idle=False)
        if fault is not None:
            raise ConfigError(f"policy {self.policy.name!r} may not decide so ({fault}): {decision}")
        if isinstance(decision, Hold) and decision.until_s is not None and not decision.until_s > situation.now_s:
            raise ConfigError(
                f"policy {self.policy.name!r} holds until {decision.until_s} s and it is {situation.now_s} s, so that "
                "no time would pass; give a later one, or None"
            )
        if isinstance(decision, Dispatch):
            chosen = decision.candidate
            keys = [(c.server, c.width) for c in candidates]
            self.apply(keys.index((chosen.server, chosen.width)), chosen.items)
        elif isinstance(decision, Reject):
            self.apply(REJECT, 0.0)
        else:
            assert isinstance(decision, Hold)
            self.apply(HOLD, 0.0, math.inf if decision.until_s is None else decision.until_s)

    def _ask(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        try:
            return self.policy.choose(candidates, situation)
        except (SlimError, AssertionError):  # the latter are for who checks a policy, see simulation.policy_contract
            raise
        except Exception as exc:
            at = traceback.extract_tb(exc.__traceback__)[-1]
            raise ConfigError(
                f"policy {self.policy.name!r} raised {type(exc).__name__}: {exc} ({at.filename}, line {at.lineno}); "
                "mend it"
            ) from exc

    def _situation(self) -> Situation:
        """Return what is asked as a value, with what policies remember."""
        query, family = self.world.head.query.tolist(), family_of(self.world, int(self.world.state[sim.ASKED]))
        widths = widths_of(self._tables.widths, family)
        memory = self._memories[family]
        memory.include(set(self._tables.names), set(widths))
        queue = QueueState(
            items=int(query[col.QUEUE_ITEMS]),
            head_items=int(query[col.HEAD_ITEMS]),
            head_deadline_s=query[col.HEAD_DEADLINE_S],
            tail_deadline_s=query[col.TAIL_DEADLINE_S],
            allowed_widths=widths,
            min_accuracy=query[col.MIN_ACCURACY],
            head_arrived_s=query[col.HEAD_ARRIVED_S],
            refuses_late=bool(query[col.REFUSES_LATE]),
            servers_share=query[col.SERVERS_SHARE],
            arrived_items=int(query[col.ARRIVED_ITEMS]),
            other_queues=int(query[col.OTHER_QUEUES]),
            other_items=int(query[col.OTHER_ITEMS]),
        )
        uniforms = query[col.FIRST_UNIFORM], query[col.SECOND_UNIFORM]
        turn, margin = int(query[col.TURN]), query[col.SLACK_MARGIN]
        return Situation(queue, query[col.NOW_S], turn, uniforms, margin, memory)


@compiled_unlocked
def _run_scored(world: World, scorer: Scorer, until_s: float, counts: Column, advancing: int) -> None:
    while advance_at(advancing, world, until_s):
        numbers, params, room, hidden = scorer
        memory = world.memory[memory_place(world) : memory_place(world) + MEMORY_FIELDS]
        rows, count, query = world.rows, int(world.state[sim.ROW_COUNT]), world.head.query
        decided = decide_by_scores(numbers, params, room, hidden, memory, rows, count, query)
        row, items, hold_until_s, unseen = decided
        counts[DECIDED] += 1
        if unseen >= 0:
            counts[DISTRUSTED] += 1
            row, items = int(scorer.room[col.DECIDED_ROW]), scorer.room[col.DECIDED_ITEMS]
            hold_until_s = scorer.room[col.DECIDED_UNTIL_S]
        apply(world, row, items, hold_until_s if row < 0 else math.inf)
