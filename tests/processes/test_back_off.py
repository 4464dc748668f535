from hypothesis import given
from hypothesis import strategies as st

from orchestrator.processes.managed import STEADY_S, count_short_runs, restart_pause_s


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_pauses_grow_with_short_runs_up_to_a_bound_and_end_with_a_steady_one(runs_s: list[float]) -> None:
    short_runs, last_s = 0, 0.0
    for ran_s in runs_s:
        short_runs = count_short_runs(short_runs, ran_s)
        pause_s = restart_pause_s(short_runs)
        assert 0.0 <= pause_s <= 30.0
        assert pause_s == 0.0 if ran_s >= STEADY_S else pause_s >= last_s
        last_s = pause_s
