from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.suites.oracle_windows import REQUESTS, draw_oracle_windows
from benchmarks.suites.standard import Comparison, draw_comparisons
from orchestrator.evaluation.cases import LEARNED
from tests.evaluation.example_suites import scenario_scores, score, write_suite


def comparison_at(path: Path) -> Comparison:
    """Return a comparison of the narrowest width with the learned policy on the scenario of a file."""
    figures = {"accuracy": 0.7, "joules_per_answer": 0.5, "attainment_ratio": 1.0, "utility": 0.5}
    made = scenario_scores(
        "calm", [score(label, traces=8, is_tuned=False, **figures) for label in ("lert:25", LEARNED)]
    )
    test = replace(made, case=replace(made.case, path=path))
    validation = replace(made, case=replace(made.case, is_validation=True))
    (comparison,) = draw_comparisons([test, validation])
    return comparison


def test_nobody_earns_more_of_a_window_than_a_clairvoyant(tmp_path: Path) -> None:
    path = write_suite(tmp_path, stems=("calm",), requests=10) / "test" / "standard" / "calm.yaml"
    (oracle_window,) = draw_oracle_windows([comparison_at(path)])
    window = oracle_window.window
    assert window is not None
    assert window.requests == 10 < REQUESTS  # there are no more
    assert 0 < window.bound.earned <= window.bound.most
    shares = [oracle_window.share(earned) for earned in window.earned]
    assert len(shares) == 2
    assert all(share is not None and 0 < share <= 1 + 1e-9 for share in shares)
    assert window.earned[0] < 0.7 * 10  # who answers all at the narrowest width earns no more than that


def test_a_window_that_can_not_be_planned_says_why(tmp_path: Path) -> None:
    path = write_suite(tmp_path, stems=("calm",)) / "test" / "standard" / "calm.yaml"
    text = path.read_text()
    fast = text[text.index("  - name: fast") : text.index("  - name: slow")]
    more = "".join(fast.replace("fast", f"fast-{at}") for at in range(3))
    path.write_text(text.replace("servers:\n", f"servers:\n{more}"))
    (oracle_window,) = draw_oracle_windows([comparison_at(path)])
    assert oracle_window.window is None
    assert "3 servers, not 5" in oracle_window.reason
    assert oracle_window.share(1.0) is None
