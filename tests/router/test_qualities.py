"""Families whose qualities are no ratios: points of a mean average precision, errors with their sign turned."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator.errors import ConfigError
from tests.fakes.servers import FakeServer, item
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
        with pytest.raises(ConfigError, match="no width has width=None, min_accuracy="):
            await router.infer(item(1), min_accuracy=qualities[-1] + 0.01)
