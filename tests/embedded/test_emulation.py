import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.embedded.emulation import check_cpus, check_slowdown, parse_cpu_list, parse_cpu_sets, parse_slowdowns
from orchestrator.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-1", {0, 1}), ("0-1,3", {0, 1, 3}), (" 2 , 2 ", {2}), ("5-5", {5})]
)
def test_a_cpu_list_may_have_ranges_blanks_and_repeats(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0;1", "1.5"])
def test_malformed_cpu_lists_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="CPU list"):
        parse_cpu_list(text)


@given(st.frozensets(st.integers(0, 200), min_size=1))
def test_a_written_out_cpu_list_comes_back(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(",".join(str(cpu) for cpu in cpus)) == cpus


def test_unavailable_cpus_are_named() -> None:
    with pytest.raises(ConfigError, match=r"not available here: 9999; choose among \d"):
        check_cpus(frozenset({9999}))
    with pytest.raises(ConfigError, match="none given"):
        check_cpus(frozenset())


def test_slowdowns_are_read_one_for_each_server_in_their_order() -> None:
    assert parse_slowdowns("1, 3.5", 2) == (1.0, 3.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1", r"--slowdown 1: 1 value\(s\) for 2 server\(s\)"),
        ("1,2,3", r"3 value\(s\) for 2"),
        ("1,fast", "'fast' is not a number"),
        ("1,0.5", "0.5: must be a number >= 1"),
        ("1,nan", "must be a number >= 1"),
        ("1,inf", "must be a number >= 1"),
    ],
)
def test_bad_slowdowns_name_flag_value_and_remedy(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_slowdowns(text, 2)


def test_a_slowdown_of_one_is_none_at_all() -> None:
    check_slowdown(1.0)


def test_cpu_lists_are_separated_by_semicolons_and_there_is_one_for_each_server() -> None:
    assert parse_cpu_sets("0;1-2,4", 2) == (frozenset({0}), frozenset({1, 2, 4}))
    with pytest.raises(ConfigError, match=r"--cpus 0: 1 value\(s\) for 2 server\(s\); .*separated by ';'"):
        parse_cpu_sets("0", 2)
