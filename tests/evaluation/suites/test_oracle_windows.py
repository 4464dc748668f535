from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.evaluation.policy_entries import LEARNED
from orchestrator.evaluation.suites.oracle_windows import REQUESTS, draw_glimpses
from orchestrator.evaluation.suites.standard import Duel, draw_duels
from tests.evaluation.example_suites import field, standing, write_suite


def duel_at(path: Path) -> Duel:
    """Return a duel of the narrowest width with the learned policy on the scenario of a file."""
    figures = {"accuracy": 0.7, "joules_per_answer": 0.5, "attainment_ratio": 1.0, "utility": 0.5}
    made = field("calm", [standing(label, traces=8, is_tuned=False, **figures) for label in ("lert:25", LEARNED)])
    test = replace(made, case=replace(made.case, path=path))
    validation = replace(made, case=replace(made.case, is_validation=True))
    (duel,) = draw_duels([test, validation])
    return duel


def test_nobody_earns_more_of_a_window_than_a_clairvoyant(tmp_path: Path) -> None:
    path = write_suite(tmp_path, stems=("calm",), requests=10) / "test" / "standard" / "calm.yaml"
    (glimpse,) = draw_glimpses([duel_at(path)])
    window = glimpse.window
    assert window is not None
    assert window.requests == 10 < REQUESTS  # there are no more
    assert 0 < window.bound.earned <= window.bound.most
    shares = [glimpse.share(earned) for earned in window.earned]
    assert len(shares) == 2
    assert all(share is not None and 0 < share <= 1 + 1e-9 for share in shares)
    assert window.earned[0] < 0.7 * 10  # who answers all at the narrowest width earns no more than that


def test_a_window_that_can_not_be_planned_says_why(tmp_path: Path) -> None:
    path = write_suite(tmp_path, stems=("calm",)) / "test" / "standard" / "calm.yaml"
    text = path.read_text()
    fast = text[text.index("  - name: fast") : text.index("  - name: slow")]
    more = "".join(fast.replace("fast", f"fast-{at}") for at in range(3))
    path.write_text(text.replace("servers:\n", f"servers:\n{more}"))
    (glimpse,) = draw_glimpses([duel_at(path)])
    assert glimpse.window is None
    assert "3 servers, not 5" in glimpse.reason
    assert glimpse.share(1.0) is None
