"""What a worker may take."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import RouterSettings
from orchestrator.gateway.workers.fleet_updates import divide, share_router


@given(st.integers(1, 10**6), st.integers(1, 256))
def test_parts_are_at_least_the_whole_and_waste_less_than_one_each(amount: int, workers: int) -> None:
    part = divide(amount, workers)
    assert amount <= part * workers < amount + workers


def test_amounts_are_divided_and_nothing_else_is() -> None:
    whole = RouterSettings(queue_limit=1000, in_flight_groups=4)
    part = share_router(whole, 4)
    assert (part.queue_limit, part.in_flight_groups) == (250, 1)
    assert part.overload.queue_limit_mib == whole.overload.queue_limit_mib / 4
    assert (part.retries.minimum, part.retries.burst, part.retries.budget_ratio) == (64, 250, 0.1)
    divided = {"queue_limit": 250, "in_flight_groups": 1, "overload": part.overload, "retries": part.retries}
    assert part == whole.model_copy(update=divided)
    assert share_router(whole, 1) == whole
