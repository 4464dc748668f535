"""A policy's file that changes while the router runs: rolled out when it is as good, given up when it is worse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config import RouterSettings
from orchestrator.config.rollout import RolloutSettings
from orchestrator.errors import SlimError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy_file import RULE, PolicyFile, write_policy_file
from orchestrator.router import Router
from orchestrator.router.dispatch.decision_log import read_all
from orchestrator.router.dispatch.explanation import describe_decision
from orchestrator.router.rollout.record import kept_path, record_path
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.policies.learned.test_policy import slim

pytestmark = pytest.mark.virtual_time

QUICK = RolloutSettings(shadow_decisions=50, shares=(0.25, 0.5), answers=50, tolerance=0.02)
OVERLOAD_PER_S = 60.0
"""More than all servers answer at the widest width, and a tenth of what they answer at the narrowest."""
START_UNIX_S = 1_800_000_000.0
DEADLINE_MS = 100.0


def put(path: Path, rule: str) -> None:
    none = np.zeros(feat.FEATURES + feat.CONTEXT, np.float32)
    write_policy_file(path, PolicyFile(RULE, rule, {}, none, none))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fitted.npz"
    put(path, "lert:reserve")
    return path


def fleet() -> dict[str, FakeServer]:
    return {"a": FakeServer(per_item_s=0.04), "b": FakeServer(per_item_s=0.08)}


def settings_of(file: Path, **settings: Any) -> RouterSettings:
    return RouterSettings(
        **{
            "policy": "fitted",
            "policy_file": file,
            "rollout": QUICK,
            "deadline_ms": DEADLINE_MS,
            "guard": NO_TIME_LIMITS,
            "probes": None,
            **settings,
        }
    )


@asynccontextmanager
async def opened(settings: RouterSettings, servers: Mapping[str, FakeServer] | None = None) -> AsyncIterator[Router]:
    loop = asyncio.get_running_loop()
    named = {ServerName(name): server for name, server in (servers or fleet()).items()}
    async with Router(settings, named, unix_clock=lambda: START_UNIX_S + loop.time()) as router:
        yield router


async def load(router: Router, seconds: float, *, per_s: float = 20.0) -> tuple[float, set[str]]:
    """Send requests for a while; return the part that was in time, and the policies that decided."""
    loop = asyncio.get_running_loop()
    calls, until_s = [], loop.time() + seconds
    while loop.time() < until_s:
        calls.append(asyncio.create_task(router.infer(item(len(calls) % 10), deadline_ms=DEADLINE_MS)))
        await asyncio.sleep(1 / per_s)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, SlimError) or not isinstance(each, BaseException) for each in answers)
    good = [each for each in answers if not isinstance(each, BaseException) and each.deadline_met]
    return len(good) / len(answers), {each.policy for each in good}


async def test_a_policy_that_is_as_good_decides_more_and_more_and_is_in_force_in_the_end(file: Path) -> None:
    async with opened(settings_of(file)) as router:
        await load(router, 3)
        put(file, "lert:slack")
        stages = [router.inspect().standing.stage]
        while router.inspect().standing.policy != "lert:slack":
            await load(router, 1)
            if stages[-1] != (stage := router.inspect().standing.stage):
                stages.append(stage)
            assert asyncio.get_running_loop().time() < 3600
        standing = router.inspect().standing
        _, policies = await load(router, 2)
    assert stages == ["", "shadow", "25% of the time", "50% of the time", ""]
    assert policies == {"lert:slack"}
    assert standing.why.startswith("it was not worse: ")
    assert kept_path(file).read_bytes() == file.read_bytes()


async def test_a_policy_that_is_worse_under_load_is_given_up_and_costs_little(file: Path) -> None:
    """Always the widest, where only narrow ones answer in time: alone it would lose most of the answers."""
    async with opened(settings_of(file)) as router:
        good, _ = await load(router, 20, per_s=OVERLOAD_PER_S)
    put(file, "lert:widest")
    async with opened(settings_of(file)) as router:
        bad, _ = await load(router, 20, per_s=OVERLOAD_PER_S)
    put(file, "lert:reserve")
    gentle = RolloutSettings(shadow_decisions=50, answers=50)
    async with opened(settings_of(file, rollout=gentle)) as router:
        await load(router, 2, per_s=OVERLOAD_PER_S)
        put(file, "lert:widest")
        parts = []
        while router.inspect().standing.stage != "returned":
            part, _ = await load(router, 10, per_s=OVERLOAD_PER_S)
            parts.append(part)
            assert len(parts) < 60
        why = router.inspect().standing.candidate_why
        after, policies = await load(router, 20, per_s=OVERLOAD_PER_S)
    assert good - bad > 0.3
    assert good - sum(parts) / len(parts) < 0.1 * (good - bad)
    assert (after, policies) == (pytest.approx(good, abs=0.01), {"lert:reserve"})
    assert why.startswith("it was worse: ")


async def test_what_was_given_up_is_not_tried_again_before_the_file_changes(file: Path, caplog: Any) -> None:
    settings = settings_of(file, rollout=RolloutSettings(shadow_decisions=0, answers=50))
    async with opened(settings) as router:
        put(file, "lert:widest")
        while router.inspect().standing.stage != "returned":
            await load(router, 10, per_s=OVERLOAD_PER_S)
        bad = file.read_bytes()
        file.write_bytes(bad)
        await load(router, 3)
        assert router.inspect().standing.stage == "returned"
    async with opened(settings) as router:  # also after a restart
        standing = router.inspect().standing
        assert (standing.policy, standing.candidate, standing.stage) == ("lert:reserve", "lert:widest", "returned")
        _, policies = await load(router, 3)
        assert policies == {"lert:reserve"}
        put(file, "lert:slack")
        await load(router, 3)
        assert router.inspect().standing.candidate == "lert:slack"
        put(file, "lert:reserve")
        await load(router, 3)
        assert (router.inspect().standing.policy, router.inspect().standing.candidate) == ("lert:reserve", "")


async def test_a_restart_goes_on_at_the_stage_and_a_file_that_came_meanwhile_begins_in_the_shadow(file: Path) -> None:
    async with opened(settings_of(file)) as router:
        put(file, "lert:slack")
        while router.inspect().standing.share < 0.25:
            await load(router, 1)
    async with opened(settings_of(file)) as router:
        standing = router.inspect().standing
        assert (standing.policy, standing.candidate, standing.share) == ("lert:reserve", "lert:slack", 0.25)
    put(file, "lert:narrowest")
    async with opened(settings_of(file)) as router:
        standing = router.inspect().standing
        assert (standing.policy, standing.candidate, standing.stage) == ("lert:reserve", "lert:narrowest", "shadow")


async def test_a_broken_file_never_enters_neither_now_nor_after_a_restart(file: Path, caplog: Any) -> None:
    async with opened(settings_of(file)) as router:
        put(file, "lert:slack")
        await load(router, 2)
        file.write_bytes(b"PK broken")
        await load(router, 5)
        assert router.inspect().standing.policy == "lert:reserve"
        assert "lert:reserve is kept in force: can't use the policy" in caplog.text
    async with opened(settings_of(file)) as router:
        assert router.inspect().standing.policy == "lert:reserve"
        _, policies = await load(router, 2)
    assert policies == {"lert:reserve"}


async def test_a_policy_file_that_is_gone_for_longer_than_it_takes_to_write_it_is_told_once(
    file: Path, caplog: Any
) -> None:
    gone = f"lert:reserve is kept in force: there is no policy file {file} any more"
    async with opened(settings_of(file)) as router:
        content = file.read_bytes()
        for _ in range(3):  # as by who writes it anew, slowly
            file.unlink()
            await asyncio.sleep(1.5)
            file.write_bytes(content)
            await asyncio.sleep(1.5)
        assert gone not in caplog.text
        file.unlink()
        await asyncio.sleep(20)
        assert caplog.text.count(gone) == 1
        assert router.inspect().standing.policy == "lert:reserve"


async def test_a_lost_copy_of_the_policy_in_force_leaves_the_fallback_and_not_what_was_given_up(file: Path) -> None:
    settings = settings_of(file, rollout=RolloutSettings(shadow_decisions=0, answers=50))
    async with opened(settings) as router:
        put(file, "lert:widest")
        while router.inspect().standing.stage != "returned":
            await load(router, 10, per_s=OVERLOAD_PER_S)
    kept_path(file).unlink()
    async with opened(settings) as router:
        _, policies = await load(router, 2)
    assert policies == {settings.guard.fallback}


async def test_a_folder_that_can_not_be_written_stops_no_rollout(file: Path, monkeypatch: Any, caplog: Any) -> None:
    def refuse(path: Path, content: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("orchestrator.router.dispatch.live_policy.write_atomically", refuse)
    monkeypatch.setattr("orchestrator.router.rollout.record.write_atomically", refuse)
    async with opened(settings_of(file)) as router:
        put(file, "lert:slack")
        while router.inspect().standing.policy != "lert:slack":
            await load(router, 10)
    assert not kept_path(file).exists() and not record_path(file).exists()
    assert "a restart would lose it" in caplog.text


async def test_other_settings_let_a_rollout_go_on_and_another_policy_ends_it(file: Path) -> None:
    async with opened(settings_of(file)) as router:
        live = router._dispatcher.live
        put(file, "lert:slack")
        while router.inspect().standing.share < 0.25:
            await load(router, 1)
        live.reconfigure(settings_of(file, deadline_ms=50))
        assert router.inspect().standing.share == 0.25
        live.reconfigure(settings_of(file, policy="thrift"))
        standing = router.inspect().standing
        assert (standing.policy, standing.candidate) == ("thrift", "")
        _, policies = await load(router, 2)
        live.reconfigure(settings_of(file, rollout=None))
        assert router.inspect().standing.policy == "lert:slack"
        put(file, "lert:25")
        await load(router, 3)
        assert router.inspect().standing.policy == "lert:slack"
        live.reconfigure(settings_of(file, rollout=None))
        assert router.inspect().standing.policy == "lert:25"
    assert policies == {"thrift"}


async def test_two_routers_of_one_file_move_on_together(file: Path) -> None:
    """Also the one that has no requests, and so no evidence of its own."""
    async with opened(settings_of(file)) as busy, opened(settings_of(file)) as idle:
        put(file, "lert:slack")
        while busy.inspect().standing.policy != "lert:slack":
            await load(busy, 1)
        await load(busy, 3)
        assert idle.inspect().standing.policy == "lert:slack"
        put(file, "lert:widest")
        while busy.inspect().standing.stage != "returned":
            await load(busy, 10, per_s=OVERLOAD_PER_S)
        await load(busy, 3)
        assert idle.inspect().standing.stage == "returned"
        assert idle.inspect().standing.candidate_why == busy.inspect().standing.candidate_why


async def test_a_learned_candidate_remembers_and_is_counted_under_a_name_of_its_own(file: Path) -> None:
    write_policy_file(file, slim("lert:reserve"))
    async with opened(settings_of(file)) as router:
        write_policy_file(file, slim("lert:slack"))
        while router.inspect().standing.share < 0.25:
            await load(router, 5)
        _, policies = await load(router, 8)
    assert {name[:9] for name in policies} == {"ppo-slim", "ppo-slim@"}


async def test_a_candidate_that_fails_is_given_up_at_once(file: Path, monkeypatch: Any) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("broken")

    async with opened(settings_of(file)) as router:
        write_policy_file(file, slim("lert:slack"))
        monkeypatch.setattr("orchestrator.policies.learned.decide.decide_by_scores", fails)
        await load(router, 5)
        standing = router.inspect().standing
    assert (standing.stage, standing.candidate_why) == ("returned", "it failed too often in the shadow")


async def test_the_decision_log_tells_what_was_in_force_and_what_was_to_follow(file: Path, tmp_path: Path) -> None:
    log = {"directory": tmp_path / "log", "sample_ratio": 1.0}
    async with opened(settings_of(file, decision_log=log)) as router:
        put(file, "lert:slack")
        await load(router, 3)
    *_, record = read_all(tmp_path / "log")
    told = "\n".join(describe_decision(record))
    assert "lert:reserve was in force since 2027-01-15 08:00:00 UTC: it is what router.policy_file named then" in told
    since = f"2027-01-15 08:00:{int(record['rollout']['since'] - START_UNIX_S):02}"
    assert f"lert:slack was to follow it, shadow since {since} UTC: {file} has changed" in told
    assert record["rollout"]["since"] > record["in_force"]["since"]
