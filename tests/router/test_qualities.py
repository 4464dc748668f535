"""Families whose qualities are no ratios: points of a mean average precision, errors with their sign turned."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator.errors import ConfigError
from orchestrator.router import Answer, Router
from tests.fakes.servers import FakeServer, item, served_model
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

POINTS = (37.4, 44.9, 48.0, 50.2)
ERRORS = (-0.42, -0.31, -0.27, -0.25)
TENTH = (0.9120, 0.9123, 0.9127, 0.9130)


def server(qualities: tuple[float, ...]) -> FakeServer:
    found = FakeServer(per_item_s=0.004)
    found.models = tuple(replace(m, accuracy=quality) for m, quality in zip(found.models, qualities, strict=True))
    return found


@pytest.mark.parametrize("qualities", [POINTS, ERRORS, TENTH])
async def test_widths_rise_when_there_is_time_and_give_way_when_there_is_not(qualities: tuple[float, ...]) -> None:
    async with routed({"a": server(qualities)}, deadline_ms=200) as router:
        for _ in range(100):
            quiet = await router.infer(item(1))
            await asyncio.sleep(0.05)
        assert (quiet.width, quiet.expected_accuracy) == (100, qualities[-1])
        crowd = [asyncio.create_task(router.infer(item(n % 10))) for n in range(400)]
        answers = await asyncio.gather(*crowd, return_exceptions=True)
        widths = [answer.width for answer in answers if not isinstance(answer, BaseException)]
        assert min(widths) == 25, "a crowd is answered at what is quick"


@pytest.mark.parametrize("qualities", [POINTS, ERRORS, TENTH])
async def test_a_floor_is_in_the_scale_of_the_family(qualities: tuple[float, ...]) -> None:
    async with routed({"a": server(qualities)}) as router:
        least = (qualities[2] + qualities[1]) / 2
        answers = await asyncio.gather(*(router.infer(item(n), min_accuracy=least) for n in range(60)))
        assert {answer.width for answer in answers} <= {75, 100}
        with pytest.raises(ConfigError, match="no width has min_accuracy="):
            await router.infer(item(1), min_accuracy=qualities[-1] + 0.01)


SIXTY = (30.0, 50.0, 70.0, 90.0)


@pytest.mark.parametrize(
    "sixty",
    [SIXTY, tuple(quality / 100 for quality in SIXTY), tuple(quality / 100 - 1 for quality in SIXTY)],
    ids=["points", "shares", "errors"],
)
@pytest.mark.parametrize("tenth", [(91.20, 91.23, 91.27, 91.30), TENTH], ids=["points", "shares"])
@pytest.mark.parametrize("policy", ["lert:brownout", "thrift", "ppo-slim"])
async def test_families_of_sixty_points_and_of_a_tenth_of_one_are_decided_by_the_policy_itself(
    policy: str, sixty: tuple[float, ...], tenth: tuple[float, ...]
) -> None:
    families = {"sixty": sixty, "tenth": tenth}
    fakes = {name: FakeServer(per_item_s=seconds) for name, seconds in (("a", 0.004), ("b", 0.008))}
    for fake in fakes.values():
        fake.models = tuple(
            replace(served_model(width, family=family), accuracy=quality)
            for family, qualities in families.items()
            for width, quality in zip((25, 50, 75, 100), qualities, strict=True)
        )

    async def ask(router: Router, family: str, count: int, gap_s: float) -> list[Answer | BaseException]:
        calls = []
        for number in range(count):
            calls.append(asyncio.create_task(router.infer(item(number % 10), family=family, deadline_ms=200)))
            await asyncio.sleep(gap_s)
        return await asyncio.gather(*calls, return_exceptions=True)

    async with routed(fakes, policy=policy) as router:
        for family, qualities in families.items():
            for answer in await ask(router, family, 40, 0.05):
                assert isinstance(answer, Answer)
                assert (answer.policy, answer.width, answer.expected_accuracy) == (policy, 100, qualities[-1])
        crowds = await asyncio.gather(*(ask(router, family, 600, 0.001) for family in families))
    for family, answers in zip(families, crowds, strict=True):
        answered = [answer for answer in answers if isinstance(answer, Answer)]
        assert {answer.policy for answer in answered} == {policy}, family
        assert min(answer.width for answer in answered) == 25, f"a crowd of {family} is answered at what is quick"
        assert len(answered) > 0.8 * len(answers), family
