"""What a run says of how much can be answered."""

from __future__ import annotations

import pytest

from orchestrator.loadgen.capacity import answers_rps
from orchestrator.loadgen.records import OK, UNANSWERED
from tests.loadgen.test_records import make_records


def test_answers_count_after_the_first_quarter_and_until_the_last_request_is_due() -> None:
    ended_s = [(0.5, OK), (1.5, OK), (2.0, "RESOURCE_EXHAUSTED"), (3.9, OK), (4.1, OK), (float("nan"), UNANSWERED)]
    records = make_records(tuple((0.0, 0.0, at_s, status, 100, "a", True) for at_s, status in ended_s))
    assert answers_rps(records, 4.0) == pytest.approx(2 / 3)
